//! Sets of token files, opened and measured.
//!
//! Matches `build_eval_dataloader`, `Evaluator` and `Trainer.eval` of ai2-olmo 0.6.0 on one device
//! (`olmo/data/__init__.py`, `olmo/eval/evaluator.py`, `olmo/train.py`): files are cut into instances
//! of the training's length, and what is left of a file is not measured; the instances of all datasets
//! of an evaluator come in the order of torch's `DistributedSampler`, the same each time, of which
//! `subset_num_batches` takes the first; the loss of a dataset is the mean of those of its instances
//! that were measured, each the mean of its tokens but the first. A dataset of which none was measured
//! has no loss. The computation is in the precision of the run.
//!
//! Differences: sums are in f64, there in f32; and the metrics of two datasets of one name, of which
//! the last would stand there, are refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use olmo_data::rng::torch_permutation;
use olmo_data::{InstanceLocation, TokenDataset};
use olmo_model::Transformer;

use super::EvaluatorConfig;
use crate::config::TrainConfig;
use crate::error::Error;
use crate::step::{Precision, row_losses};

/// The sets of token files of a run.
#[derive(Debug)]
pub(crate) struct TokenSets {
    sets: Vec<TokenSet>,
    precision: Precision,
}

/// The datasets of an evaluator.
#[derive(Debug)]
struct TokenSet {
    label: String,
    instances: TokenDataset,
    /// For each dataset its name, and the number of the instance after its last.
    datasets: Vec<(String, usize)>,
    /// The instances that are measured.
    order: Vec<u32>,
    batch_size: usize,
}

/// Losses of the instances of a dataset, added up.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    loss: f64,
    n_instances: u64,
}

impl TokenSets {
    /// Opens the files of all evaluators of raw tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Evaluator`] where files are not what they should be, or have no instance.
    pub(crate) fn open(config: &TrainConfig) -> Result<Self, Error> {
        let of_tokens = config.evaluators.iter().filter(|evaluator| evaluator.is_of_tokens());
        let open = |evaluator: &EvaluatorConfig| {
            let label = evaluator.label.clone();
            TokenSet::open(evaluator, config).map_err(|source| Error::Evaluator { label, source })
        };
        Ok(Self {
            sets: of_tokens.map(open).collect::<Result<_, _>>()?,
            precision: config.precision,
        })
    }

    /// Loss and perplexity of each dataset, by the names of their metrics; `None` where `stop` is set
    /// on the way.
    ///
    /// # Errors
    ///
    /// [`Error::Evaluator`] where an instance cannot be read, [`Error::NonFiniteScore`].
    pub(crate) fn measure(
        &self,
        model: &Transformer,
        stop: &AtomicBool,
    ) -> Result<Option<BTreeMap<String, f64>>, Error> {
        let mut scores = BTreeMap::new();
        for set in &self.sets {
            match set.measure(model, self.precision, stop)? {
                Some(found) => scores.extend(found),
                None => return Ok(None),
            }
        }
        Ok(Some(scores))
    }
}

impl TokenSet {
    fn open(evaluator: &EvaluatorConfig, config: &TrainConfig) -> olmo_data::Result<Self> {
        let seq = config.data.sequence_length;
        let paths: Vec<_> = evaluator.files().flat_map(|(_, paths)| paths).collect();
        let vocab_size = u32::try_from(config.model.vocab_size).unwrap_or(u32::MAX);
        let instances =
            TokenDataset::open(&paths, evaluator.memmap_dtype, seq)?.with_vocab_size(vocab_size);
        let mut files = instances.files().iter();
        let mut end = 0;
        let mut datasets = Vec::new();
        for (name, paths) in evaluator.files() {
            end += files.by_ref().take(paths.len()).map(|file| file.len() / seq).sum::<usize>();
            datasets.push((name.to_owned(), end));
        }
        let batch_size = evaluator.device_eval_batch_size.clamp(1, instances.len());
        let mut order = torch_permutation(instances.len(), evaluator.seed.unwrap_or(config.seed))?;
        if let Some(n_batches) = evaluator.subset_num_batches {
            order.truncate(n_batches.saturating_mul(batch_size));
        }
        Ok(Self { label: evaluator.label.clone(), instances, datasets, order, batch_size })
    }

    fn measure(
        &self,
        model: &Transformer,
        precision: Precision,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<(String, f64)>>, Error> {
        let seq = self.instances.seq_len();
        let mut sums = vec![Sum::default(); self.datasets.len()];
        for numbers in self.order.chunks(self.batch_size) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let mut tokens = vec![0; numbers.len() * seq];
            for (row, number) in tokens.chunks_mut(seq).zip(numbers) {
                let read = self.instances.read_into(*number as usize, row);
                read.map_err(|source| self.unreadable(source))?;
            }
            for (loss, number) in row_losses(model, &tokens, seq, precision).iter().zip(numbers) {
                if !loss.is_finite() {
                    return Err(self.no_number(*number as usize, *loss));
                }
                let dataset = self.datasets.partition_point(|(_, end)| *end <= *number as usize);
                // The first token of an instance follows nothing.
                sums[dataset].loss += loss / (seq - 1) as f64;
                sums[dataset].n_instances += 1;
            }
        }
        Ok(Some(self.scores(&sums)))
    }

    fn scores(&self, sums: &[Sum]) -> Vec<(String, f64)> {
        let measured = self.datasets.iter().zip(sums).filter(|(_, sum)| sum.n_instances > 0);
        let scores = measured.flat_map(|((name, _), sum)| {
            let loss = sum.loss / sum.n_instances as f64;
            [("CrossEntropyLoss", loss), ("Perplexity", loss.exp())]
                .map(|(what, value)| (format!("eval/{name}/{what}"), value))
        });
        scores.collect()
    }

    fn no_number(&self, number: usize, loss: f64) -> Error {
        let label = self.label.clone();
        match self.instances.locate(number) {
            Ok(InstanceLocation { path, index_in_file: instance, .. }) => {
                Error::NonFiniteScore { label, path, instance, loss }
            }
            Err(source) => self.unreadable(source),
        }
    }

    fn unreadable(&self, source: olmo_data::Error) -> Error {
        Error::Evaluator { label: self.label.clone(), source }
    }
}
