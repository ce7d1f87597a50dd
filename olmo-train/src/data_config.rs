//! The data of a run: token files, how instances are made of them, and in what order they come.

use std::path::PathBuf;

use olmo_data::fingerprint::LongDocStrategy;
use olmo_data::official::InstanceFilterConfig;
use olmo_data::rng::python_shuffle;
use olmo_data::{BatchOrder, TokenDtype, VslCurriculum};
use serde::{Deserialize, Serialize};

/// Token files and how they are cut into instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Raw token files, in order; none for a mixture, whose sources name theirs.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
    /// Number format of the files.
    #[serde(default)]
    pub memmap_dtype: TokenDtype,
    /// Tokens in an instance; in the longest where they are of several lengths.
    pub sequence_length: usize,
    /// Seed of the order, where it is not that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whose order instances come in.
    #[serde(default)]
    pub order: OrderConfig,
    /// How instances are made.
    #[serde(default)]
    pub dataset: DatasetConfig,
    /// Seed of an order that `paths` are put into first: OLMo-core's, Python's `random.shuffle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_permutation_seed: Option<u64>,
    /// Tokens of the tokenizer, which OLMo-core's fingerprint has; `model.vocab_size` where not given,
    /// which is larger where the embedding is padded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<u32>,
    /// Token that a document begins with, where the tokenizer has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Whether a run goes on from OLMo-core's checkpoint with data of another fingerprint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_fingerprint_mismatch: bool,
    /// A file for each of `paths` that says which tokens count as labels: a byte each, 0 or 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_mask_paths: Option<Vec<PathBuf>>,
    /// Leaves instances out of the loss that repeat a short sequence too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_filter: Option<InstanceFilterConfig>,
    /// Whether documents are kept from seeing each other; refused, since attention has no such mask.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generate_doc_lengths: bool,
    /// Batches read ahead.
    #[serde(default = "default_prefetch")]
    pub prefetch: usize,
}

/// The order of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderConfig {
    /// That of the original trainer.
    #[default]
    Olmo,
    /// That of OLMo-core.
    OlmoCore,
}

/// How instances are made of token files; names and fields are those of OLMo-core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum DatasetConfig {
    /// Files cut at the sequence length.
    Fsl {
        /// A length up to which the sequence length may grow from run to run while the order of the
        /// data stays; only in OLMo-core's order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_target_sequence_length: Option<usize>,
    },
    /// The first part of the files of several sources.
    FslMixture {
        /// Where the tokens are from.
        sources: Vec<SourceConfig>,
        /// Tokens of the mixture.
        requested_tokens: u64,
    },
    /// A document an instance, cut or padded.
    PaddedFsl {},
    /// Whole documents, as many as fit.
    PackedFsl {
        /// What is done with documents longer than the sequence.
        #[serde(default)]
        long_doc_strategy: LongDocStrategy,
        /// Files that are packed together.
        #[serde(default = "one")]
        source_group_size: usize,
    },
    /// Pieces of several documents in turn.
    InterleavedFsl {
        /// Documents in an instance.
        docs_per_instance: usize,
        /// Pieces of each.
        chunks_per_doc: usize,
        /// Seed of the choice of documents.
        seed: u64,
        /// Files whose documents are instances of their own, as they are named in `paths`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interleaving_exempt_paths: Option<Vec<PathBuf>>,
    },
    /// Pieces of documents whose lengths are powers of two, the longest that of the sequence.
    Vsl {
        /// The shortest length.
        min_sequence_length: usize,
        /// How the lengths of batches follow each other.
        #[serde(default)]
        curriculum: VslCurriculum,
    },
}

/// A source of a mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Its name.
    pub source_name: String,
    /// Its token files.
    pub paths: Vec<PathBuf>,
    /// Its share of the mixture; all together 1.
    pub target_ratio: f64,
    /// How often its tokens may be taken.
    #[serde(default = "one_f64")]
    pub max_repetition_ratio: f64,
    /// The largest part of its tokens that may be used.
    #[serde(default = "one_f64")]
    pub max_source_fraction: f64,
}

impl Default for DatasetConfig {
    fn default() -> Self {
        Self::Fsl { max_target_sequence_length: None }
    }
}

impl DatasetConfig {
    /// Whether instances are made of documents, which end-of-text tokens tell apart.
    pub(crate) fn has_documents(&self) -> bool {
        !matches!(self, Self::Fsl { .. } | Self::FslMixture { .. })
    }

    /// Whether instances may need padding.
    pub(crate) fn is_padded(&self) -> bool {
        matches!(self, Self::PaddedFsl {} | Self::PackedFsl { .. } | Self::InterleavedFsl { .. })
    }
}

impl DataConfig {
    /// The order as the loader is told it.
    pub(crate) fn batch_order(&self) -> BatchOrder {
        match (self.order, &self.dataset) {
            (OrderConfig::Olmo, _) => BatchOrder::Olmo,
            (OrderConfig::OlmoCore, DatasetConfig::Vsl { curriculum, .. }) => {
                BatchOrder::OlmoCoreVsl { curriculum: *curriculum }
            }
            (
                OrderConfig::OlmoCore,
                DatasetConfig::Fsl { max_target_sequence_length: Some(max) },
            ) => BatchOrder::OlmoCore { chunk_size: max / self.sequence_length.max(1) },
            (OrderConfig::OlmoCore, _) => BatchOrder::OlmoCore { chunk_size: 1 },
        }
    }

    /// The same with its files in the order that they are put into; none where they stay.
    ///
    /// Matches `NumpyDatasetConfig._resolve_paths_metadata` of ai2-olmo-core 2.4.0.
    pub(crate) fn permuted(&self) -> Option<Self> {
        let order = python_shuffle(self.paths.len(), self.source_permutation_seed?);
        let in_order = |paths: &[PathBuf]| -> Vec<PathBuf> {
            order.iter().filter_map(|&i| paths.get(i)).cloned().collect()
        };
        Some(Self {
            paths: in_order(&self.paths),
            // As many are checked for where they are opened.
            label_mask_paths: self.label_mask_paths.as_ref().map(|masks| {
                if masks.len() == order.len() { in_order(masks) } else { masks.clone() }
            }),
            ..self.clone()
        })
    }

    /// What is wrong with these settings together.
    pub(crate) fn problems(&self, eos: Option<u32>, pad: Option<u32>, vocab: usize) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: String| {
            if !ok {
                problems.push(problem);
            }
        };
        let seq = self.sequence_length;
        check(seq >= 2, format!("data.sequence_length is {seq}, expected at least 2"));
        let depth = self.prefetch;
        check(
            depth <= MAX_PREFETCH,
            format!("data.prefetch is {depth}, expected at most {MAX_PREFETCH} batches"),
        );
        let is_mixture = matches!(self.dataset, DatasetConfig::FslMixture { .. });
        check(
            is_mixture || !self.paths.is_empty(),
            "data.paths is empty, expected token files".to_owned(),
        );
        check(
            !is_mixture || (self.paths.is_empty() && self.label_mask_paths.is_none()),
            "data.paths or data.label_mask_paths is there, expected neither with a mixture, whose \
             sources name their files"
                .to_owned(),
        );
        check(
            !self.generate_doc_lengths,
            "data.generate_doc_lengths is true, expected false: attention cannot keep documents \
             from seeing each other yet"
                .to_owned(),
        );
        let is_core = self.order == OrderConfig::OlmoCore;
        match &self.dataset {
            DatasetConfig::Vsl { min_sequence_length: min, .. } => {
                check(
                    is_core,
                    "data.order is olmo, expected olmo_core with instances of several lengths"
                        .to_owned(),
                );
                check(
                    *min >= 2,
                    format!("data.dataset.min_sequence_length is {min}, expected at least 2"),
                );
                check(
                    self.label_mask_paths.is_none(),
                    "data.label_mask_paths is there, expected none with instances of several lengths"
                        .to_owned(),
                );
            }
            DatasetConfig::Fsl { max_target_sequence_length: Some(max) } => check(
                is_core && *max >= seq && max.is_multiple_of(seq.max(1)),
                format!(
                    "data.dataset.max_target_sequence_length is {max}, expected a multiple of \
                     data.sequence_length = {seq}, and data.order: olmo_core"
                ),
            ),
            _ => {}
        }
        check(
            !self.dataset.has_documents() || eos.is_some(),
            "eos_token_id is missing, expected the token that ends a document in data.paths"
                .to_owned(),
        );
        check(
            !self.dataset.is_padded() || pad.is_some(),
            "pad_token_id is missing, expected the token that instances are padded with".to_owned(),
        );
        check(
            !is_mixture || self.source_permutation_seed.is_none(),
            "data.source_permutation_seed is there, expected none with a mixture, which has an order of its own"
                .to_owned(),
        );
        let tokens = self.vocab_size.unwrap_or(1);
        check(
            (1..=vocab).contains(&(tokens as usize)),
            format!("data.vocab_size is {tokens}, expected at most model.vocab_size = {vocab}"),
        );
        for (name, id) in
            [("eos_token_id", eos), ("pad_token_id", pad), ("data.bos_token_id", self.bos_token_id)]
        {
            if let Some(id) = id {
                let problem =
                    format!("{name} is {id}, expected less than model.vocab_size = {vocab}");
                check((id as usize) < vocab, problem);
            }
        }
        problems
    }
}

/// Batches read ahead at most: each has a place from the beginning.
const MAX_PREFETCH: usize = 1024;

fn default_prefetch() -> usize {
    2
}

fn one() -> usize {
    1
}

fn one_f64() -> f64 {
    1.0
}
