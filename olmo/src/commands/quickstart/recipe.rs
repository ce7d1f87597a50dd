//! What the quickstart trains, and on what.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use olmo_data::{BadRows, BpeTraining, Corpus, Tokenize};
use olmo_model::presets;
use olmo_train::TrainConfig;

use super::fables::Fables;

/// Training steps.
pub(super) const STEPS: u64 = 300;
/// Tokens in an instance.
pub(super) const SEQUENCE_LENGTH: usize = 128;
/// Fables that are trained on: about a megabyte.
const N_TRAINED: usize = 2000;
/// Fables that are measured on.
pub(super) const N_HELD_OUT: usize = 50;
/// Seed of the fables that are trained on.
const SEED: u64 = 6198;
/// Seed of the fables that are measured on.
pub(super) const HELD_OUT_SEED: u64 = 34521;

/// Entries of the tokenizer's vocabulary.
const VOCAB_SIZE: usize = 1024;
/// Rows of the embedding, a multiple of 128 as OLMo pads its own.
const EMBEDDING_ROWS: usize = 1024;

pub(super) const TOKENIZER: &str = "tokenizer.json";
const DOCUMENTS: &str = "fables.jsonl";
const TOKENS: &str = "tokens";

/// Documents, tokenizer and token files, in a folder that is there whole or not at all.
pub(super) fn make_data(folder: &Path) -> Result<()> {
    olmo_hub::write_dir_atomic(folder, |folder| {
        let documents = folder.join(DOCUMENTS);
        let mut lines = String::new();
        for (i, text) in Fables::new(SEED).take(N_TRAINED).enumerate() {
            let document = serde_json::json!({"id": format!("fable-{i}"), "source": "quickstart", "text": text});
            writeln!(lines, "{document}")?;
        }
        olmo_hub::write_atomic(&documents, |file| file.put(lines.as_bytes()))?;
        let corpus = Corpus::new([&documents], BadRows::Error)?;
        let texts = corpus.documents().map(|document| document.map(|document| document.text));
        let tokenizer = BpeTraining::new(VOCAB_SIZE).train(texts)?;
        tokenizer.save(folder.join(TOKENIZER))?;
        Tokenize::new(&tokenizer)?.run(&corpus, folder.join(TOKENS))?;
        anyhow::Ok(())
    })
}

/// The run as a configuration, the same form that `olmo train` reads.
pub(super) fn config(out: &Path, steps: u64, vocab_size: usize) -> Result<TrainConfig> {
    let rows = EMBEDDING_ROWS.max(vocab_size);
    let model = presets::small_olmo2(128, 4, 4, rows);
    let data = out.join("data");
    let config = serde_json::json!({
        "run_name": "quickstart",
        "save_folder": out,
        "model": olmo_model::ModelConfig { max_sequence_length: 2 * SEQUENCE_LENGTH, ..model },
        "data": {
            "paths": [data.join(TOKENS).join("part-0-00000.npy")],
            "memmap_dtype": "uint16",
            "sequence_length": SEQUENCE_LENGTH,
        },
        "tokenizer": data.join(TOKENIZER),
        "eos_token_id": 0,
        "pad_token_id": 1,
        "optimizer": { "learning_rate": 4e-3 },
        "scheduler": { "name": "cosine_with_warmup", "t_warmup": steps / 10, "alpha_f": 0.1 },
        "global_train_batch_size": 16,
        "device_train_microbatch_size": 16,
        "max_duration": steps,
        "max_grad_norm": 1.0,
        "save_interval": 100,
        "save_num_checkpoints_to_keep": 2,
    });
    Ok(TrainConfig::parse(&config.to_string(), &[], "the quickstart's configuration")?)
}
