//! `olmo data order`: which instances a rank sees, in order.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use olmo_data::{
    DataOrder, DataOrderConfig, FslOrder, FslOrderConfig, Tail, TokenDataset, TokenDtype,
};
use serde::Serialize;

use crate::output;

/// Print the instances of one rank in the order of OLMo's trainer, or of OLMo-core's
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo data order --seed 6198 --epoch 0 --world-size 8 --rank 3 --global-batch-size 512 \\
    --seq-len 2048 --dtype uint16 tokens/part-*.npy
  olmo data order --order olmo-core --seed 34521 --global-batch-size 1024 --seq-len 4096 \\
    --dtype uint32 --save-to work tokens/part-*.npy")]
pub(crate) struct Order {
    /// Token files, in the order of the run
    #[arg(required = true, value_name = "PATHS")]
    paths: Vec<PathBuf>,
    /// Whose order
    #[arg(long = "order", value_enum, default_value_t = Whose::Olmo)]
    whose: Whose,
    /// Seed of the run
    #[arg(long, value_name = "S", default_value_t = 6198)]
    seed: u64,
    /// Epoch; OLMo's trainer counts from 0, OLMo-core from 1, which are the defaults
    #[arg(long, value_name = "E")]
    epoch: Option<u64>,
    /// Number of ranks
    #[arg(long, value_name = "W", default_value_t = 1)]
    world_size: usize,
    /// Rank, from 0
    #[arg(long, value_name = "R", default_value_t = 0)]
    rank: usize,
    /// Instances of a batch over all ranks, a multiple of their number and by default the same;
    /// OLMo-core drops what fills no batch, in OLMo's order it changes nothing
    #[arg(long, value_name = "B")]
    global_batch_size: Option<usize>,
    /// Tokens of an instance
    #[arg(long, value_name = "T")]
    seq_len: usize,
    /// Length up to which the sequence length may grow; only in OLMo-core's order
    #[arg(long, value_name = "T")]
    max_target_sequence_length: Option<usize>,
    /// Integer type of the token files
    #[arg(long, value_name = "DTYPE", default_value = "uint16")]
    dtype: TokenDtype,
    /// Instances of the epoch that all ranks have seen already
    #[arg(long, value_name = "I", default_value_t = 0)]
    start_index: usize,
    /// Repeat the first instances so that the ranks come out even, instead of dropping the last;
    /// not in OLMo-core's order
    #[arg(long)]
    keep_last: bool,
    /// Write the order of all ranks into this folder, under the name that the trainer gives it, such
    /// as `global_indices.npy`
    #[arg(long, value_name = "DIR")]
    save_to: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whose {
    Olmo,
    OlmoCore,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// Instances of the epoch over all ranks.
    total: usize,
    indices: Vec<u32>,
    /// The file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

impl Order {
    pub(crate) fn run(&self) -> Result<()> {
        let batch = self.global_batch_size.unwrap_or(self.world_size);
        ensure!(
            batch > 0 && batch.is_multiple_of(self.world_size.max(1)),
            "--global-batch-size is {batch}, expected a positive multiple of --world-size {}",
            self.world_size
        );
        let report = match self.whose {
            Whose::Olmo => self.olmo()?,
            Whose::OlmoCore => self.olmo_core(batch)?,
        };
        let (total, start) = (report.total, self.start_index);
        if report.indices.is_empty() {
            output::complain(&format!(
                "no instance is left: the epoch has {total} over all ranks, and --start-index passes \
                 over {start}"
            ));
        }
        if self.json {
            return Ok(output::json(&report)?);
        }
        if let Some(file) = &report.file {
            output::complain(&format!("written to {file}"));
        }
        let indices: Vec<String> = report.indices.iter().map(ToString::to_string).collect();
        if indices.is_empty() { Ok(()) } else { Ok(output::line(indices.join("\n"))?) }
    }

    /// The folder to write to, made if need be.
    fn folder(&self) -> Result<Option<&Path>> {
        let Some(folder) = self.save_to.as_deref() else { return Ok(None) };
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        Ok(Some(folder))
    }

    fn olmo(&self) -> Result<Report> {
        ensure!(
            self.max_target_sequence_length.is_none(),
            "--max-target-sequence-length is there, expected only with --order olmo-core"
        );
        let dataset = TokenDataset::open(&self.paths, self.dtype, self.seq_len)?;
        let config = DataOrderConfig {
            seed: self.seed,
            epoch: self.epoch.unwrap_or(0),
            world_size: self.world_size,
            rank: self.rank,
            tail: if self.keep_last { Tail::Pad } else { Tail::Drop },
            start_index: self.start_index,
            ..DataOrderConfig::default()
        };
        let order = DataOrder::new(dataset.len(), &config)?;
        let file = self.folder()?.map(|folder| folder.join("global_indices.npy"));
        if let Some(file) = &file {
            order.write_global_indices(file)?;
        }
        let total = order.global_indices().len();
        let file = file.map(|file| file.display().to_string());
        Ok(Report { total, indices: order.rank_indices().collect(), file })
    }

    fn olmo_core(&self, batch: usize) -> Result<Report> {
        ensure!(!self.keep_last, "--keep-last is there, expected only with --order olmo");
        ensure!(
            self.start_index.is_multiple_of(batch),
            "--start-index is {}, expected a multiple of --global-batch-size {batch}",
            self.start_index
        );
        let mut dataset = TokenDataset::open(&self.paths, self.dtype, self.seq_len)?;
        let longest = self.max_target_sequence_length.unwrap_or(self.seq_len);
        if longest != self.seq_len {
            dataset = dataset.with_max_target_sequence_length(longest)?;
        }
        let global_batch_size = batch.checked_mul(self.seq_len).with_context(|| {
            format!("--global-batch-size {batch} with --seq-len {} is too large", self.seq_len)
        })?;
        let config = FslOrderConfig {
            seed: self.seed,
            epoch: self.epoch.unwrap_or(1),
            shuffle: true,
            chunk_size: longest / self.seq_len,
            global_batch_size,
            sequence_length: self.seq_len,
        };
        let order = FslOrder::new(dataset.len(), &config)?;
        let write = |folder| order.write_global_indices(folder);
        let file = self.folder()?.map(write).transpose()?.map(|file| file.display().to_string());
        let seen = self.start_index / batch;
        let indices = order.rank_indices(seen, self.rank, self.world_size)?.collect();
        Ok(Report { total: order.total_batches() * batch, indices, file })
    }
}
