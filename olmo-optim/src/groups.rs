//! Which parameters decay.
//!
//! OLMo olmo/optim.py `get_param_groups`: weights of linear layers always decay, biases and norm
//! weights only with `decay_norm_and_bias`, embeddings only with `decay_embeddings`. There are at
//! most two groups, the decaying one first, each sorted by name byte by byte (so `blocks.10` comes
//! before `blocks.2`); a group without parameters is left out. torch numbers optimizer state in this
//! order, so with the original names it is also the key to an old checkpoint.
//!
//! OLMo-core's usual override, no decay for `embeddings.weight` and decay for everything else, is
//! [`GroupRules::OLMO_CORE`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Error;

/// What a parameter is, as far as weight decay goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamKind {
    /// The weight of a linear layer: a projection, an expert, a router, an untied language-model
    /// head.
    Linear,
    /// An embedding table, also one that is tied to the language-model head.
    Embedding,
    /// The weight of a norm.
    Norm,
    /// The bias of a linear layer or of a norm.
    Bias,
}

/// Which kinds decay besides the weights of linear layers. By default none, as in the first OLMo
/// models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupRules {
    /// Whether norm weights and all biases decay.
    pub decay_norm_and_bias: bool,
    /// Whether embeddings decay.
    pub decay_embeddings: bool,
}

impl GroupRules {
    /// Everything decays but the embeddings: OLMo 2, OLMo 3 and OLMo-core.
    pub const OLMO_CORE: Self = Self { decay_norm_and_bias: true, decay_embeddings: false };

    /// Whether a parameter of this kind decays.
    pub fn decays(self, kind: ParamKind) -> bool {
        match kind {
            ParamKind::Linear => true,
            ParamKind::Embedding => self.decay_embeddings,
            ParamKind::Norm | ParamKind::Bias => self.decay_norm_and_bias,
        }
    }
}

/// Parameters that are updated with the same settings.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamGroup {
    /// Weight decay of every parameter in the group.
    pub weight_decay: f64,
    /// Parameter paths, sorted.
    pub paths: Vec<String>,
}

/// All parameters of a model, in groups.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamGroups {
    groups: Vec<ParamGroup>,
    group_of: BTreeMap<String, usize>,
}

impl ParamGroups {
    /// Sorts parameters into groups. The decaying group gets `weight_decay`, the other 0.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicatePath`].
    pub fn new<P: Into<String>>(
        params: impl IntoIterator<Item = (P, ParamKind)>,
        rules: GroupRules,
        weight_decay: f64,
    ) -> Result<Self, Error> {
        let mut decays = BTreeMap::new();
        for (path, kind) in params {
            let path = path.into();
            if decays.insert(path.clone(), rules.decays(kind)).is_some() {
                return Err(Error::DuplicatePath { path });
            }
        }
        let mut groups: Vec<ParamGroup> = Vec::new();
        for (wanted, weight_decay) in [(true, weight_decay), (false, 0.0)] {
            let members = decays.iter().filter(|(_, decays)| **decays == wanted);
            let paths: Vec<String> = members.map(|(path, _)| path.clone()).collect();
            if !paths.is_empty() {
                groups.push(ParamGroup { weight_decay, paths });
            }
        }
        let members = |(i, group): (usize, &ParamGroup)| {
            group.paths.iter().map(move |path| (path.clone(), i)).collect::<Vec<_>>()
        };
        let group_of = groups.iter().enumerate().flat_map(members).collect();
        Ok(Self { groups, group_of })
    }

    /// The groups, the decaying one first.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// The index of a parameter's group; `None` for an unknown path.
    pub fn group_of(&self, path: &str) -> Option<usize> {
        self.group_of.get(path).copied()
    }

    /// The weight decay of a parameter; `None` for an unknown path.
    pub fn weight_decay(&self, path: &str) -> Option<f64> {
        self.group_of(path).map(|i| self.groups[i].weight_decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_by_its_path() {
        let params = [
            ("blocks.2.attention.w_q.weight", ParamKind::Linear),
            ("embeddings.weight", ParamKind::Embedding),
            ("blocks.10.attention.w_q.weight", ParamKind::Linear),
        ];
        let groups = ParamGroups::new(params, GroupRules::OLMO_CORE, 0.1).unwrap();
        assert_eq!(
            groups.groups()[0].paths,
            ["blocks.10.attention.w_q.weight", "blocks.2.attention.w_q.weight"]
        );
        assert_eq!(groups.group_of("blocks.2.attention.w_q.weight"), Some(0));
        assert_eq!(groups.weight_decay("blocks.2.attention.w_q.weight"), Some(0.1));
        assert_eq!(groups.group_of("embeddings.weight"), Some(1));
        assert_eq!(groups.weight_decay("embeddings.weight"), Some(0.0));
        assert_eq!(groups.weight_decay("embeddings"), None);
    }

    #[test]
    fn one_group_where_nothing_is_exempt() {
        let rules = GroupRules { decay_norm_and_bias: true, decay_embeddings: true };
        let params = [("b", ParamKind::Bias), ("a", ParamKind::Embedding)];
        let groups = ParamGroups::new(params, rules, 0.1).unwrap();
        let paths = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(groups.groups(), [ParamGroup { weight_decay: 0.1, paths }]);
    }

    #[test]
    fn a_path_given_twice_is_an_error() {
        let params = [("a", ParamKind::Linear), ("a", ParamKind::Norm)];
        let error = ParamGroups::new(params, GroupRules::default(), 0.1).unwrap_err();
        assert_eq!(error, Error::DuplicatePath { path: "a".into() });
    }
}
