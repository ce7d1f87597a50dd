//! `olmo data order`: which instances a rank sees, in order.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use olmo_data::{DataOrder, DataOrderConfig, Tail, TokenDataset, TokenDtype};
use serde::Serialize;

use crate::output;

/// Print the instances of one rank in the order of OLMo's trainer
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo data order --seed 6198 --epoch 0 --world-size 8 --rank 3 --global-batch-size 512 \\
    --seq-len 2048 --dtype uint16 tokens/part-*.npy")]
pub(crate) struct Order {
    /// Token files, in the order of the run
    #[arg(required = true, value_name = "PATHS")]
    paths: Vec<PathBuf>,
    /// Seed of the run
    #[arg(long, value_name = "S", default_value_t = 6198)]
    seed: u64,
    /// Epoch, from 0
    #[arg(long, value_name = "E", default_value_t = 0)]
    epoch: u64,
    /// Number of ranks
    #[arg(long, value_name = "W", default_value_t = 1)]
    world_size: usize,
    /// Rank, from 0
    #[arg(long, value_name = "R", default_value_t = 0)]
    rank: usize,
    /// Instances of a batch over all ranks, a multiple of their number; the order is the same for any
    #[arg(long, value_name = "B")]
    global_batch_size: Option<usize>,
    /// Tokens of an instance
    #[arg(long, value_name = "T")]
    seq_len: usize,
    /// Integer type of the token files
    #[arg(long, value_name = "DTYPE", default_value = "uint16")]
    dtype: TokenDtype,
    /// Instances of the epoch that all ranks have seen already
    #[arg(long, value_name = "I", default_value_t = 0)]
    start_index: usize,
    /// Repeat the first instances so that the ranks come out even, instead of dropping the last
    #[arg(long)]
    keep_last: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// Instances of the epoch over all ranks.
    total: usize,
    indices: Vec<u32>,
}

impl Order {
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(batch) = self.global_batch_size {
            ensure!(
                batch > 0 && batch.is_multiple_of(self.world_size.max(1)),
                "--global-batch-size is {batch}, expected a positive multiple of --world-size {}",
                self.world_size
            );
        }
        let dataset = TokenDataset::open(&self.paths, self.dtype, self.seq_len)?;
        let config = DataOrderConfig {
            seed: self.seed,
            epoch: self.epoch,
            world_size: self.world_size,
            rank: self.rank,
            tail: if self.keep_last { Tail::Pad } else { Tail::Drop },
            start_index: self.start_index,
            ..DataOrderConfig::default()
        };
        let order = DataOrder::new(dataset.len(), &config)?;
        if self.json {
            let total = order.global_indices().len();
            return Ok(output::json(&Report { total, indices: order.rank_indices().collect() })?);
        }
        let indices: Vec<String> = order.rank_indices().map(|index| index.to_string()).collect();
        if indices.is_empty() { Ok(()) } else { Ok(output::line(indices.join("\n"))?) }
    }
}
