//! Where checkpoints are published as they are made.

use serde::{Deserialize, Serialize};

/// Where each checkpoint is sent to, as the branch `stepN-tokensM`. The sending is the
/// [`Observer`](crate::Observer)'s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushConfig {
    /// `owner/name` on the Hugging Face Hub; made where it is not there.
    pub repo: String,
    /// Whether a repository that is made is seen by its owner only.
    #[serde(default)]
    pub private: bool,
}
