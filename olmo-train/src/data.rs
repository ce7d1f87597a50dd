//! The data of a run, opened: instances, the fingerprint of their files, labels of a batch.

use std::path::PathBuf;
use std::sync::Arc;

use olmo_data::fingerprint::{DatasetKind, SpecialTokenIds, fingerprint};
use olmo_data::instances::{
    FslInstances, InstanceConfig, Instances, InterleavedInstances, MixtureSource, PackedInstances,
    PaddedInstances, RepetitionFilter, Sources, VslInstances, mixture,
};
use olmo_data::{
    Batch, DataLoader, DataLoaderConfig, LoaderState, TokenDataset, TokenDtype, TokenFile,
};
use olmo_model::Labels;

use crate::config::{Compat, TrainConfig};
use crate::data_config::{DataConfig, DatasetConfig, SourceConfig};
use crate::error::Error;

/// What stands for no label.
const NONE: i64 = -1;

/// The instances of a run and what tells them from others.
pub struct OpenData {
    /// The instances.
    pub instances: Arc<dyn Instances>,
    /// OLMo-core's, of the dataset of that kind. Ids that the configuration does not give are 0.
    pub fingerprint: String,
}

impl std::fmt::Debug for OpenData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenData")
            .field("n_instances", &self.instances.len())
            .field("fingerprint", &self.fingerprint)
            .finish()
    }
}

impl OpenData {
    /// A loader that goes on from a state, with batches of the size that they have after so many
    /// tokens of the run.
    ///
    /// # Errors
    ///
    /// [`Error::Data`], as of [`DataLoader::new`].
    pub fn loader(
        &self,
        config: &TrainConfig,
        total_tokens: u64,
        state: LoaderState,
    ) -> Result<DataLoader, Error> {
        let global_batch_size = config.batch_plan().batch_size(total_tokens);
        let settings = DataLoaderConfig { global_batch_size, ..config.loader() };
        Ok(DataLoader::new(Arc::clone(&self.instances), settings, state)?)
    }
}

/// Opens the data of a run, every id to be checked against the vocabulary as it is read.
///
/// # Errors
///
/// [`Error::Data`] where a file is not there or not what it should be, or no instance can be made;
/// [`Error::Config`] where the configuration names what is not among its files.
pub fn open(config: &TrainConfig) -> Result<OpenData, Error> {
    let data = &config.data;
    let vocab_size = u32::try_from(config.model.vocab_size).unwrap_or(u32::MAX);
    let ids = SpecialTokenIds {
        vocab_size: data.vocab_size.unwrap_or(vocab_size),
        pad_token_id: config.pad_token_id.unwrap_or(0),
        eos_token_id: config.eos_token_id.unwrap_or(0),
        bos_token_id: data.bos_token_id,
    };
    let permuted = data.permuted();
    let data = permuted.as_ref().unwrap_or(data);
    let (paths, n_tokens) = match &data.dataset {
        DatasetConfig::FslMixture { sources, requested_tokens } => {
            let batch = config.tokens_per_step();
            mixed(sources, *requested_tokens, batch, data.sequence_length, data.memmap_dtype)?
        }
        _ => (data.paths.clone(), None),
    };
    let is_filtered = n_tokens.is_none() || config.compat != Compat::OlmoCore;
    let filter = data.instance_filter.filter(|_| is_filtered).map(RepetitionFilter::new);
    let made = InstanceConfig { ids, generate_doc_lengths: false, filter };
    let instances = instances(data, vocab_size, made, &paths, n_tokens.as_deref())?;
    let item_bytes = data.memmap_dtype.item_bytes() as u64;
    let sizes = match n_tokens {
        Some(n_tokens) => n_tokens.into_iter().map(|n| n * item_bytes).collect(),
        None => sizes(&paths)?,
    };
    let files = paths.iter().zip(sizes);
    let fingerprint = fingerprint(&kind(data), ids, data.memmap_dtype, files);
    Ok(OpenData { instances, fingerprint })
}

/// The labels of some rows of a batch: the next token, where that counts.
pub(crate) fn labels(tokens: &[u32], seq_len: usize, label_mask: Option<&[bool]>) -> Labels {
    let Some(mask) = label_mask else { return Labels::next_token(tokens, seq_len) };
    let rows = tokens.chunks(seq_len).zip(mask.chunks(seq_len));
    Labels::new(rows.flat_map(|(tokens, mask)| {
        let next = tokens.iter().zip(mask).skip(1);
        let label = |(&id, &counts)| if counts { i64::from(id) } else { NONE };
        next.map(label).chain([NONE])
    }))
}

/// The rows of a batch in parts of at most `n_tokens` tokens, each with its labels.
pub(crate) fn micro_batches(batch: &Batch, n_tokens: usize) -> Vec<(&[u32], Labels)> {
    let masks = batch.label_mask.as_deref();
    let parts = batch.tokens.chunks(n_tokens).enumerate();
    parts
        .map(|(i, tokens)| {
            let places = i * n_tokens..i * n_tokens + tokens.len();
            let mask = masks.and_then(|mask| mask.get(places));
            (tokens, labels(tokens, batch.seq_len, mask))
        })
        .collect()
}

fn instances(
    data: &DataConfig,
    vocab_size: u32,
    config: InstanceConfig,
    paths: &[PathBuf],
    n_tokens: Option<&[u64]>,
) -> Result<Arc<dyn Instances>, Error> {
    let (dtype, seq_len) = (data.memmap_dtype, data.sequence_length);
    if let DatasetConfig::Fsl { max_target_sequence_length: max } = data.dataset
        && data.label_mask_paths.is_none()
        && config.filter.is_none()
    {
        let dataset = TokenDataset::open(paths, dtype, seq_len)?.with_vocab_size(vocab_size);
        return Ok(match max {
            None => Arc::new(dataset),
            Some(max) => Arc::new(dataset.with_max_target_sequence_length(max)?),
        });
    }
    let sources =
        Sources::open(paths, dtype, data.label_mask_paths.as_deref())?.with_vocab_size(vocab_size);
    Ok(match &data.dataset {
        DatasetConfig::Fsl { max_target_sequence_length: max } => {
            let instances = FslInstances::new(sources, config, seq_len)?;
            match max {
                None => Arc::new(instances),
                Some(max) => Arc::new(instances.with_max_target_sequence_length(*max)?),
            }
        }
        DatasetConfig::FslMixture { .. } => {
            Arc::new(FslInstances::mixture(sources, config, seq_len, n_tokens.unwrap_or_default())?)
        }
        DatasetConfig::PaddedFsl {} => Arc::new(PaddedInstances::new(sources, config, seq_len)?),
        DatasetConfig::PackedFsl { long_doc_strategy, source_group_size } => {
            let (strategy, group) = (*long_doc_strategy, *source_group_size);
            Arc::new(PackedInstances::new(sources, config, seq_len, strategy, group)?)
        }
        DatasetConfig::InterleavedFsl {
            docs_per_instance,
            chunks_per_doc,
            seed,
            interleaving_exempt_paths,
        } => Arc::new(InterleavedInstances::new(
            sources,
            config,
            seq_len,
            *docs_per_instance,
            *chunks_per_doc,
            *seed,
            &exempt(paths, interleaving_exempt_paths.as_deref().unwrap_or_default())?,
        )?),
        DatasetConfig::Vsl { min_sequence_length, .. } => {
            Arc::new(VslInstances::new(sources, config, *min_sequence_length, seq_len)?)
        }
    })
}

/// The kind of dataset with what its fingerprint depends on.
fn kind(data: &DataConfig) -> DatasetKind {
    let sequence_length = data.sequence_length;
    match &data.dataset {
        DatasetConfig::Fsl { max_target_sequence_length } => {
            DatasetKind::Fsl { max_target_sequence_length: *max_target_sequence_length }
        }
        DatasetConfig::FslMixture { .. } => {
            DatasetKind::FslMixture { max_target_sequence_length: None }
        }
        DatasetConfig::PaddedFsl {} => DatasetKind::PaddedFsl { sequence_length },
        DatasetConfig::PackedFsl { long_doc_strategy, source_group_size } => {
            DatasetKind::PackedFsl {
                sequence_length,
                long_doc_strategy: *long_doc_strategy,
                source_group_size: *source_group_size,
            }
        }
        DatasetConfig::InterleavedFsl {
            docs_per_instance,
            seed,
            interleaving_exempt_paths,
            ..
        } => DatasetKind::InterleavedFsl {
            sequence_length,
            docs_per_instance: *docs_per_instance,
            seed: *seed,
            interleaving_exempt_paths: interleaving_exempt_paths
                .as_ref()
                .map(|paths| paths.iter().map(|path| path.display().to_string()).collect()),
        },
        DatasetConfig::Vsl { min_sequence_length, curriculum } => DatasetKind::Vsl {
            min_sequence_length: *min_sequence_length,
            max_sequence_length: sequence_length,
            curriculum: *curriculum,
        },
    }
}

/// The files of a mixture in their order, and how many tokens of each are taken.
fn mixed(
    sources: &[SourceConfig],
    requested_tokens: u64,
    batch: u64,
    seq_len: usize,
    dtype: TokenDtype,
) -> Result<(Vec<PathBuf>, Option<Vec<u64>>), Error> {
    let with_counts = sources
        .iter()
        .map(|source| {
            let count = |path| Ok::<_, Error>(TokenFile::open(path, dtype)?.len() as u64);
            Ok(MixtureSource {
                name: source.source_name.clone(),
                target_ratio: source.target_ratio,
                max_repetition_ratio: source.max_repetition_ratio,
                max_source_fraction: source.max_source_fraction,
                n_tokens: source.paths.iter().map(count).collect::<Result<_, _>>()?,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let parts = mixture(&with_counts, requested_tokens, batch, seq_len as u64)?;
    let paths = parts.iter().map(|part| sources[part.source].paths[part.file].clone()).collect();
    Ok((paths, Some(parts.iter().map(|part| part.n_tokens).collect())))
}

/// Numbers of the files that are not interleaved.
fn exempt(paths: &[PathBuf], exempt: &[PathBuf]) -> Result<Vec<usize>, Error> {
    let number = |wanted: &PathBuf| {
        paths.iter().position(|path| path == wanted).ok_or_else(|| Error::Config {
            origin: "data.dataset.interleaving_exempt_paths".to_owned(),
            message: format!("{} is none of data.paths", wanted.display()),
        })
    };
    exempt.iter().map(number).collect()
}

fn sizes(paths: &[PathBuf]) -> Result<Vec<u64>, Error> {
    let size = |path: &PathBuf| {
        let metadata = std::fs::metadata(path);
        metadata.map(|found| found.len()).map_err(|source| Error::Io { path: path.clone(), source })
    };
    paths.iter().map(size).collect()
}
