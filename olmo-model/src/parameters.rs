//! The parameters of a model by name, shape and role, from its [`ModelConfig`] alone.
//!
//! The names are those of OLMo-core's modules, which are also the module paths of
//! [`Transformer`](crate::Transformer): a path here is a path there and a key in a checkpoint.
//! Nothing is allocated, so counting the 32B model costs nothing.

use crate::config::{FeedForwardConfig, ModelConfig, NormConfig};

/// One parameter of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Dotted module path, such as `blocks.0.attention.w_q.weight`.
    pub path: String,
    /// Shape, row-major; matrices are `[d_out, d_in]` as in every published checkpoint.
    pub shape: Vec<usize>,
    /// What the parameter does, for optimizer groups and initialisation.
    pub role: Role,
    /// The block it belongs to, from 0.
    pub layer: Option<usize>,
}

/// What a parameter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The embedding matrix, which with tied weights is also the output projection.
    Embedding,
    /// Query, key or value projection.
    AttentionIn,
    /// Attention's output projection.
    AttentionOut,
    /// `w1` or `w3`: gate or up projection.
    FeedForwardIn,
    /// `w2`: down projection.
    FeedForwardOut,
    /// The router of a mixture of experts.
    Router,
    /// The output projection to the vocabulary.
    Output,
    /// A norm's weight.
    Norm,
}

impl Parameter {
    /// Elements of the parameter.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl ModelConfig {
    /// Every parameter, in module order: embedding, blocks, head.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut list = Listing::default();
        list.matrix("embeddings.weight", [self.vocab_size, self.d_model], Role::Embedding);
        for layer in 0..self.n_layers {
            list.layer = Some(layer);
            self.block_parameters(&mut list, &format!("blocks.{layer}"));
        }
        list.layer = None;
        list.norm(self.norm, "lm_head.norm", self.d_model);
        if !self.weight_tying {
            list.matrix("lm_head.w_out.weight", [self.vocab_size, self.d_model], Role::Output);
        }
        list.parameters
    }

    /// Elements of all parameters.
    pub fn n_parameters(&self) -> usize {
        self.parameters().iter().map(Parameter::n_elements).sum()
    }

    /// Elements of all parameters but the embedding, the count that FLOPs go by.
    pub fn n_non_embedding_parameters(&self) -> usize {
        self.n_parameters() - self.vocab_size * self.d_model
    }

    fn block_parameters(&self, list: &mut Listing, block: &str) {
        let (d_model, attention) = (self.d_model, &self.attention);
        let (d_query, d_kv) = (attention.d_query(), attention.d_key_value());
        let at = |name: &str| format!("{block}.attention.{name}.weight");
        list.matrix(at("w_q"), [d_query, d_model], Role::AttentionIn);
        list.matrix(at("w_k"), [d_kv, d_model], Role::AttentionIn);
        list.matrix(at("w_v"), [d_kv, d_model], Role::AttentionIn);
        list.matrix(at("w_out"), [d_model, d_query], Role::AttentionOut);
        if attention.qk_norm {
            list.norm(self.norm, &format!("{block}.attention.q_norm"), d_query);
            list.norm(self.norm, &format!("{block}.attention.k_norm"), d_kv);
        }
        list.norm(self.norm, &format!("{block}.attention_norm"), d_model);
        self.feed_forward_parameters(list, &format!("{block}.feed_forward"));
        list.norm(self.norm, &format!("{block}.feed_forward_norm"), d_model);
    }

    fn feed_forward_parameters(&self, list: &mut Listing, path: &str) {
        let d_model = self.d_model;
        let mut swiglu = |path: &str, hidden_size: usize| {
            list.matrix(format!("{path}.w1.weight"), [hidden_size, d_model], Role::FeedForwardIn);
            list.matrix(format!("{path}.w2.weight"), [d_model, hidden_size], Role::FeedForwardOut);
            list.matrix(format!("{path}.w3.weight"), [hidden_size, d_model], Role::FeedForwardIn);
        };
        match self.feed_forward {
            FeedForwardConfig::Swiglu { hidden_size } => swiglu(path, hidden_size),
            FeedForwardConfig::Experts { hidden_size, n_experts, .. } => {
                for expert in 0..n_experts {
                    swiglu(&format!("{path}.experts.{expert}"), hidden_size);
                }
                list.matrix(format!("{path}.router.weight"), [n_experts, d_model], Role::Router);
            }
        }
    }
}

#[derive(Default)]
struct Listing {
    parameters: Vec<Parameter>,
    layer: Option<usize>,
}

impl Listing {
    fn matrix(&mut self, path: impl Into<String>, shape: [usize; 2], role: Role) {
        self.push(path.into(), shape.to_vec(), role);
    }

    fn norm(&mut self, norm: NormConfig, path: &str, size: usize) {
        if let NormConfig::RmsNorm { .. } = norm {
            self.push(format!("{path}.weight"), vec![size], Role::Norm);
        }
    }

    fn push(&mut self, path: String, shape: Vec<usize>, role: Role) {
        self.parameters.push(Parameter { path, shape, role, layer: self.layer });
    }
}

#[cfg(test)]
mod tests {
    use crate::presets;

    /// Published sizes: the OLMo, OLMo 2, OLMo 3 and OLMoE papers and model cards. Of the planned
    /// 65B nothing was released; its count is that of ai2's configuration for it, whose name says 70:
    /// `2 * 50304 * 8192 + 80 * (2 * 8192² + 2 * 1024 * 8192 + 3 * 28672 * 8192)`. Those of 20M and 150M
    /// are what `OLMo.num_params` of ai2-olmo 0.6.0 says of its models of `OLMo-20M.yaml` and
    /// `OLMo-150M.yaml`; the names leave out the embedding.
    #[test]
    fn presets_have_the_published_number_of_parameters() {
        let published = [
            ("olmo_1b", 1_176_764_416),
            ("olmo_7b", 6_888_095_744),
            ("olmo_7b_twin_2t", 6_888_095_744),
            ("olmo_7b_2t", 6_888_095_744),
            ("olmo_7b_not_annealed", 6_888_095_744),
            ("olmo_7b_0424", 6_888_095_744),
            ("olmo_1b_0724", 1_176_764_416),
            ("olmo_7b_0724", 6_888_095_744),
            ("olmo_65b", 69_275_222_016),
            ("olmo_20m", 34_148_608),
            ("olmo_150m", 190_532_352),
            ("olmo2_1b", 1_484_916_736),
            ("olmo2_7b", 7_298_617_344),
            ("olmo2_13b", 13_716_198_400),
            ("olmo2_32b", 32_234_279_936),
            ("olmo3_7b", 7_298_617_344),
            ("olmo3_7b_long", 7_298_617_344),
            ("olmo3_32b", 32_234_279_936),
            ("olmo3_32b_long", 32_234_279_936),
            ("olmoe_1b_7b", 6_919_161_856),
        ];
        let counts: Vec<_> =
            presets::all().map(|(name, config)| (name, config.n_parameters())).collect();
        assert_eq!(counts, published);
    }
}
