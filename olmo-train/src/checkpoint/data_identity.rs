//! Whether a run goes on with the data that its checkpoint was made with.

use olmo_data::BatchOrder;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::data::OpenData;

/// What the order of the data depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataIdentity {
    /// Seed of the order.
    pub seed: u64,
    /// Instances of all files together.
    pub n_instances: usize,
    /// Tokens in an instance, or in the longest.
    pub sequence_length: usize,
    /// Whose order it is.
    #[serde(default)]
    pub order: BatchOrder,
    /// OLMo-core's fingerprint of the files and of how instances are made of them; none in
    /// checkpoints from before it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Tokens of a batch, where the order depends on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<u64>,
}

impl DataIdentity {
    /// That of a run with its data.
    pub(crate) fn new(config: &TrainConfig, opened: &OpenData) -> Self {
        let order = config.data.batch_order();
        let is_vsl = matches!(order, BatchOrder::OlmoCoreVsl { .. });
        Self {
            seed: config.data_seed(),
            n_instances: opened.instances.len(),
            sequence_length: config.data.sequence_length,
            order,
            fingerprint: Some(opened.fingerprint.clone()),
            batch_tokens: is_vsl.then(|| config.tokens_per_step()),
        }
    }

    /// Why a run with the data `now` cannot go on where one with these data was; none where it can.
    pub fn obstacle(&self, now: &Self) -> Option<String> {
        let differs = |what: &str, then: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
            Some(format!("its {what} is {then}, this run's is {now}"))
        };
        let named = |order: &BatchOrder| match order {
            BatchOrder::Olmo => "olmo".to_owned(),
            BatchOrder::OlmoCore { .. } => "olmo_core".to_owned(),
            BatchOrder::OlmoCoreVsl { curriculum } => format!("olmo_core by {curriculum}"),
        };
        if named(&self.order) != named(&now.order) {
            return differs("order of data", &named(&self.order), &named(&now.order));
        }
        if self.seed != now.seed {
            return differs("data seed", &self.seed, &now.seed);
        }
        if let (Some(then), Some(now)) = (self.batch_tokens, now.batch_tokens)
            && then != now
        {
            return differs("batch in tokens, on which its order depends,", &then, &now);
        }
        let is_other = self.sequence_length != now.sequence_length;
        let grows = is_other && self.longest().is_some() && self.longest() == now.longest();
        if is_other && !grows {
            return differs("sequence length", &self.sequence_length, &now.sequence_length);
        }
        if let (Some(then), Some(now)) = (&self.fingerprint, &now.fingerprint)
            && then != now
        {
            return Some(format!(
                "its data have the fingerprint {}, this run's {}: files, their names or sizes, or how \
                 instances are made of them have changed",
                short(then),
                short(now)
            ));
        }
        if !grows && self.n_instances != now.n_instances {
            return differs("number of instances", &self.n_instances, &now.n_instances);
        }
        None
    }

    /// The length up to which the sequence length may grow while the order stays.
    fn longest(&self) -> Option<usize> {
        match self.order {
            BatchOrder::OlmoCore { chunk_size } => Some(chunk_size * self.sequence_length),
            _ => None,
        }
    }
}

/// The beginning of a fingerprint, enough to tell two apart.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(sequence_length: usize, chunk_size: usize) -> DataIdentity {
        DataIdentity {
            seed: 1,
            n_instances: 1024 / sequence_length,
            sequence_length,
            order: BatchOrder::OlmoCore { chunk_size },
            fingerprint: Some("0123456789abcdef".to_owned()),
            batch_tokens: None,
        }
    }

    #[test]
    fn the_sequence_length_grows_up_to_the_longest() {
        assert_eq!(core(16, 4).obstacle(&core(32, 2)), None);
        assert_eq!(core(16, 4).obstacle(&core(64, 1)), None);
        let obstacle = core(16, 1).obstacle(&core(32, 1)).expect("another order");
        assert!(obstacle.contains("sequence length is 16"), "{obstacle}");
    }

    #[test]
    fn what_differs_is_named() {
        let this = core(16, 1);
        let obstacle = |other: &DataIdentity| this.obstacle(other).expect("another");
        let olmo = DataIdentity { order: BatchOrder::Olmo, ..this.clone() };
        assert_eq!(obstacle(&olmo), "its order of data is olmo_core, this run's is olmo");
        assert!(obstacle(&DataIdentity { seed: 2, ..this.clone() }).contains("data seed is 1"));
        let files = DataIdentity { fingerprint: Some("f".to_owned()), ..this.clone() };
        assert!(obstacle(&files).contains("fingerprint 0123456789ab, this run's f"));
        assert_eq!(DataIdentity { fingerprint: None, ..this.clone() }.obstacle(&files), None);
        assert!(
            obstacle(&DataIdentity { n_instances: 3, ..this.clone() }).contains("instances is 64")
        );
    }

    #[test]
    fn checkpoints_without_order_and_fingerprint_are_read() {
        let json = r#"{"seed": 1, "n_instances": 2, "sequence_length": 3}"#;
        let old: DataIdentity = serde_json::from_str(json).expect("the older form");
        assert_eq!((old.order, old.fingerprint), (BatchOrder::Olmo, None));
    }
}
