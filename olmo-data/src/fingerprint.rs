//! The fingerprint of a dataset: whether a checkpoint is resumed on the data it was made with.
//!
//! Matches `NumpyDatasetBase.fingerprint` of ai2-olmo-core 2.4.0 (version `v2.0`): SHA-256 of the
//! class, the settings that decide what an instance is, and each file's name and size. The text that
//! is hashed has Python's spelling of every value, as in
//!
//! ```text
//! class=NumpyFSLDatasetvocab_size=32,pad_token_id=1,eos_token_id=0,dtype=<class 'numpy.uint16'>,…
//! path=part-0-00000.npy,size=2048,
//! ```
//!
//! without the line break. Folders play no part, so data may be moved.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::token_file::TokenDtype;
use crate::vsl_curriculum::VslCurriculum;

/// OLMo-core's version of the way fingerprints are made.
pub const FINGERPRINT_VERSION: &str = "v2.0";

/// What the tokenizer says of the tokens in a dataset; OLMo-core's `TokenizerConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokenIds {
    /// Tokens of the vocabulary.
    pub vocab_size: u32,
    /// Padding.
    pub pad_token_id: u32,
    /// End of a document.
    pub eos_token_id: u32,
    /// Beginning of a document, where there is such a token.
    pub bos_token_id: Option<u32>,
}

/// What is done with documents that are longer than an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongDocStrategy {
    /// They are cut; the rest is not used.
    #[default]
    Truncate,
    /// They become several.
    Fragment,
}

/// The kinds of dataset and the settings that tell two of a kind apart.
#[derive(Debug, Clone, PartialEq)]
pub enum DatasetKind {
    /// `NumpyFSLDataset`: files cut at a fixed length.
    Fsl {
        /// The longest length that the order shall hold for.
        max_target_sequence_length: Option<usize>,
    },
    /// `NumpyFSLDatasetMixture`: the first part of each file. Sizes are those of the parts.
    FslMixture {
        /// The longest length that the order shall hold for.
        max_target_sequence_length: Option<usize>,
    },
    /// `NumpyPaddedFSLDataset`: a document an instance.
    PaddedFsl {
        /// Tokens of an instance.
        sequence_length: usize,
    },
    /// `NumpyPackedFSLDataset`: whole documents, several in an instance.
    PackedFsl {
        /// Tokens of an instance.
        sequence_length: usize,
        /// What is done with longer documents.
        long_doc_strategy: LongDocStrategy,
        /// Files that are packed together.
        source_group_size: usize,
    },
    /// `NumpyInterleavedFSLDataset`: pieces of several documents in turn.
    InterleavedFsl {
        /// Tokens of an instance.
        sequence_length: usize,
        /// Documents of an instance.
        docs_per_instance: usize,
        /// Seed of the choice of documents.
        seed: u64,
        /// Files whose documents are not interleaved, as they were given.
        interleaving_exempt_paths: Option<Vec<String>>,
    },
    /// `NumpyVSLDataset`: lengths that are powers of two.
    Vsl {
        /// The shortest.
        min_sequence_length: usize,
        /// The longest.
        max_sequence_length: usize,
        /// The order of lengths.
        curriculum: VslCurriculum,
    },
}

impl DatasetKind {
    /// OLMo-core's name of the class.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Fsl { .. } => "NumpyFSLDataset",
            Self::FslMixture { .. } => "NumpyFSLDatasetMixture",
            Self::PaddedFsl { .. } => "NumpyPaddedFSLDataset",
            Self::PackedFsl { .. } => "NumpyPackedFSLDataset",
            Self::InterleavedFsl { .. } => "NumpyInterleavedFSLDataset",
            Self::Vsl { .. } => "NumpyVSLDataset",
        }
    }

    /// The settings in the order in which they are hashed, without those of every dataset.
    fn fields(&self, bos_token_id: &str) -> Vec<(&'static str, String)> {
        let bos = ("bos_token_id", bos_token_id.to_owned());
        match self {
            Self::Fsl { max_target_sequence_length: max }
            | Self::FslMixture { max_target_sequence_length: max } => {
                vec![("max_target_sequence_length", python_option(*max)), bos]
            }
            Self::PaddedFsl { sequence_length } => vec![
                ("max_target_sequence_length", python_option::<u32>(None)),
                bos,
                ("sequence_length", sequence_length.to_string()),
            ],
            Self::PackedFsl { sequence_length, long_doc_strategy, source_group_size } => {
                let strategy = match long_doc_strategy {
                    LongDocStrategy::Truncate => "truncate",
                    LongDocStrategy::Fragment => "fragment",
                };
                let mut fields = vec![
                    ("long_doc_strategy", strategy.to_owned()),
                    bos,
                    ("sequence_length", sequence_length.to_string()),
                ];
                if *source_group_size > 1 {
                    fields.push(("source_group_size", source_group_size.to_string()));
                }
                fields
            }
            Self::InterleavedFsl {
                sequence_length,
                docs_per_instance,
                seed,
                interleaving_exempt_paths,
            } => vec![
                ("_docs_per_instance", docs_per_instance.to_string()),
                ("_seed", seed.to_string()),
                ("_interleaving_exempt_paths", python_list(interleaving_exempt_paths.as_deref())),
                ("max_target_sequence_length", python_option::<u32>(None)),
                bos,
                ("sequence_length", sequence_length.to_string()),
            ],
            Self::Vsl { min_sequence_length, max_sequence_length, curriculum } => vec![
                ("min_sequence_length", min_sequence_length.to_string()),
                ("max_sequence_length", max_sequence_length.to_string()),
                ("curriculum", curriculum.to_string()),
            ],
        }
    }
}

/// The fingerprint of files with their sizes in bytes.
///
/// ```
/// use olmo_data::fingerprint::{DatasetKind, SpecialTokenIds, fingerprint};
/// use olmo_data::TokenDtype;
///
/// let ids = SpecialTokenIds { vocab_size: 32, pad_token_id: 1, eos_token_id: 0, bos_token_id: None };
/// let kind = DatasetKind::Fsl { max_target_sequence_length: None };
/// let here = fingerprint(&kind, ids, TokenDtype::Uint16, [("here/a.npy", 64)]);
/// assert_eq!(here, fingerprint(&kind, ids, TokenDtype::Uint16, [("there/a.npy", 64)]));
/// assert_ne!(here, fingerprint(&kind, ids, TokenDtype::Uint16, [("here/a.npy", 66)]));
/// ```
pub fn fingerprint<P: AsRef<Path>>(
    kind: &DatasetKind,
    ids: SpecialTokenIds,
    dtype: TokenDtype,
    files: impl IntoIterator<Item = (P, u64)>,
) -> String {
    let SpecialTokenIds { vocab_size, pad_token_id, eos_token_id, bos_token_id } = ids;
    let mut text = format!(
        "class={}vocab_size={vocab_size},pad_token_id={pad_token_id},eos_token_id={eos_token_id},\
         dtype=<class 'numpy.{dtype}'>,",
        kind.class()
    );
    for (name, value) in kind.fields(&python_option(bos_token_id)) {
        let _ = write!(text, "{name}={value},");
    }
    let mut hash = Sha256::new_with_prefix(text);
    for (path, size) in files {
        let name = path.as_ref().file_name().unwrap_or_default().to_string_lossy();
        hash.update(format!("path={name},size={size},"));
    }
    hex(&hash.finalize())
}

/// SHA-256 of some bytes, as lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A digest as lower-case hexadecimal digits.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn python_option<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| value.to_string())
}

/// Python's `repr` of a list of strings that have no control characters.
fn python_list(values: Option<&[String]>) -> String {
    let Some(values) = values else { return "None".to_owned() };
    let quoted = values.iter().map(|value| {
        let quote = if value.contains('\'') && !value.contains('"') { '"' } else { '\'' };
        let inner = value.replace('\\', "\\\\");
        let inner = if quote == '\'' { inner.replace('\'', "\\'") } else { inner };
        format!("{quote}{inner}{quote}")
    });
    format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
}
