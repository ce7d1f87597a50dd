//! What the quickstart trains, and on what.

use std::path::Path;

use anyhow::Result;
use olmo_data::{BadRows, BpeTraining, Tokenize};
use olmo_model::presets;
use olmo_train::TrainConfig;

use super::corpus::Corpus;

/// Training steps.
pub(super) const STEPS: u64 = 600;
/// Tokens in an instance.
pub(super) const SEQUENCE_LENGTH: usize = 256;

/// Entries of the tokenizer's vocabulary.
const VOCAB_SIZE: usize = 2048;
/// Rows of the embedding, a multiple of 128 as OLMo pads its own.
const EMBEDDING_ROWS: usize = 2048;

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const HELD_OUT: &str = "held-out.jsonl";
const DOCUMENTS: &str = "train.jsonl";
const TOKENS: &str = "tokens";

/// Documents, tokenizer and token files, in a folder that is there whole or not at all.
pub(super) fn make_data(folder: &Path) -> Result<()> {
    olmo_hub::write_dir_atomic(folder, |folder| {
        let Corpus { train, held_out } = Corpus::embedded()?;
        let documents = folder.join(DOCUMENTS);
        olmo_hub::write_atomic(&documents, |file| file.put(train.as_bytes()))?;
        olmo_hub::write_atomic(&folder.join(HELD_OUT), |file| file.put(held_out.as_bytes()))?;
        let corpus = olmo_data::Corpus::new([&documents], BadRows::Error)?;
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
        "global_train_batch_size": 8,
        "device_train_microbatch_size": 8,
        "max_duration": steps,
        "max_grad_norm": 1.0,
        "save_interval": 100,
        "save_num_checkpoints_to_keep": 2,
    });
    Ok(TrainConfig::parse(&config.to_string(), &[], "the quickstart's configuration")?)
}
