//! `olmo logits`: the logits of token rows, as a safetensors file.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use olmo_hub::{Dtype, TensorSpec, write_tensors_in_parts};
use olmo_model::{Transformer, token_tensor};

use crate::device::DeviceName;
use crate::input;
use crate::interrupt::{Interrupt, Interrupted};
use crate::weights::{self, Weights};

/// Write the logits of the token after each token
#[derive(Debug, Args)]
#[command(after_help = "Example:
  echo '[[510, 5347, 273], [1, 2, 3]]' > tokens.json
  olmo logits --model OLMo-2-0425-1B --tokens tokens.json --out logits.safetensors

Ctrl-C leaves nothing behind.")]
pub(crate) struct Logits {
    /// Folder of the model, or a repository of the Hub, owner/name[@revision]
    #[arg(long, value_name = "DIR|REPO")]
    model: PathBuf,
    /// JSON [[ids], …], rows of equal length
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Safetensors file to write: `logits`, [batch, seq, vocab] in f32
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    weights: Weights,
}

impl Logits {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let folder = input::model_folder(&self.model)?;
        let config = folder.model_config();
        let (vocab_size, limit) = (config.vocab_size, config.max_sequence_length);
        let rows = input::token_rows(&self.tokens, vocab_size)?;
        let seq = row_length(&rows, &self.tokens)?;
        ensure!(
            seq <= limit,
            "the rows of {} have {seq} tokens, more than the model's context of {limit}",
            self.tokens.display()
        );
        let model = weights::load(&folder, device, self.weights)?;
        let shape = vec![rows.len(), seq, vocab_size];
        let spec = TensorSpec { name: "logits".to_owned(), dtype: Dtype::F32, shape };
        let interrupt = Interrupt::listen()?;
        // Row by row, so that only the logits of one are held.
        write_tensors_in_parts(&self.out, &[spec], &[], |_, put| -> Result<()> {
            for row in &rows {
                if interrupt.is_asked() {
                    return Err(Interrupted.into());
                }
                put(&logits(&model, row)?)?;
            }
            Ok(())
        })
    }
}

/// The length that all rows have.
fn row_length(rows: &[Vec<u32>], path: &Path) -> Result<usize> {
    let length = rows.first().map_or(0, Vec::len);
    if let Some(i) = rows.iter().position(|row| row.len() != length) {
        bail!(
            "the rows of {} are of unequal length: row 1 has {length} tokens, row {} has {}; \
             give rows of equal length",
            path.display(),
            i + 1,
            rows[i].len(),
        );
    }
    Ok(length)
}

/// The logits of one row as little-endian f32.
fn logits(model: &Transformer, row: &[u32]) -> Result<Vec<u8>> {
    let tokens = token_tensor(row, [1, row.len()], &model.device());
    let logits = model.forward(tokens, None)?.into_data();
    Ok(logits.iter::<f32>().flat_map(f32::to_le_bytes).collect())
}
