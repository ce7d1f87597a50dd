//! What a configuration says about the model folders of its checkpoints.

use std::path::Path;

use olmo_hub::{Dtype, HfConfig, Special};

use super::TrainConfig;

impl TrainConfig {
    /// Ids of the tokens with a meaning of their own, for `config.json`.
    pub fn special(&self) -> Special {
        Special {
            bos_token_id: None,
            eos_token_id: self.eos_token_id.into_iter().collect(),
            pad_token_id: self.pad_token_id,
        }
    }

    /// Why there would be no way to write the model down. The first checkpoint may be days away.
    pub(super) fn form_problem(&self) -> Option<String> {
        let path = Path::new("the config.json of a checkpoint");
        let config = HfConfig::for_model(&self.model, &self.special(), Dtype::F32, path);
        config.err().map(|error| error.to_string())
    }
}
