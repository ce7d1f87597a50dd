//! The whole way: documents, a tokenizer, tokens, thirty steps, a checkpoint, new text.
//!
//! Run: `cargo run --example train_tiny`

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use olmo_data::{BadRows, BpeTraining, Corpus, SpecialTokens, Tokenize};
use olmo_hub::ModelFolder;
use olmo_model::Sampling;
use olmo_train::{Observer, StepMetrics, TrainConfig, Trainer};

struct Print;

impl Observer for Print {
    fn on_step(&mut self, metrics: &StepMetrics) {
        if metrics.step == 1 || metrics.step.is_multiple_of(10) {
            println!("step {:>2}  loss {:.3}", metrics.step, metrics.cross_entropy);
        }
    }
}

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    std::fs::write(folder.join("documents.jsonl"), documents())?;

    let corpus = Corpus::new([folder.join("documents.jsonl")], BadRows::Error)?;
    let texts = corpus.documents().map(|document| document.map(|document| document.text));
    let tokenizer = BpeTraining::new(300).train(texts)?;
    tokenizer.save(folder.join("tokenizer.json"))?;
    let tokens = Tokenize::new(&tokenizer)?.run(&corpus, folder.join("tokens"))?;
    println!("{} documents, {} tokens", tokens.n_documents, tokens.n_tokens);

    let config = TrainConfig::parse(&yaml(folder, &tokens.files[0]), &[], "train_tiny.rs")?;
    let device = Device::flex();
    let mut trainer = Trainer::new(config, &device)?;
    trainer.run(&mut Print, &AtomicBool::new(false))?;

    // The checkpoint is a Hugging Face model folder, with the tokenizer beside the weights.
    let checkpoint = trainer.last_checkpoint().unwrap_or(folder);
    let model = ModelFolder::open(checkpoint)?.load_to_run(&device, None)?;
    let mut tokens = tokenizer.encode("The fox")?;
    let new: Result<Vec<u32>, _> = model.generate(&tokens, Sampling::greedy())?.take(24).collect();
    tokens.extend(new?);
    println!("{}", tokenizer.decode(&tokens, SpecialTokens::Skip)?);
    Ok(())
}

/// Sixty-four sentences, one a document.
fn documents() -> String {
    let (who, what) = (["heron", "otter", "badger", "fox"], ["waits", "sleeps", "runs", "sings"]);
    let sentence = |i: usize| {
        let (who, what, place) = (who[i % 4], what[i / 4 % 4], ["river", "hill"][i / 16 % 2]);
        format!("{{\"id\": \"{i}\", \"text\": \"The {who} {what} by the {place}.\"}}\n")
    };
    (0..64).map(sentence).collect()
}

fn yaml(folder: &Path, tokens: &Path) -> String {
    let (folder, tokens) = (folder.display(), tokens.display());
    format!(
        "{{run_name: tiny, save_folder: {folder}/run, tokenizer: {folder}/tokenizer.json,
        model: {{preset: olmo2_1b, d_model: 64, n_layers: 2, vocab_size: 300,
            max_sequence_length: 64, attention: {{n_heads: 4, n_kv_heads: 4, head_dim: 16}},
            feed_forward: {{hidden_size: 256}}}},
        data: {{paths: [{tokens}], sequence_length: 16}}, optimizer: {{learning_rate: 0.01}},
        scheduler: {{name: cosine_with_warmup, t_warmup: 3}}, max_grad_norm: 1.0,
        global_train_batch_size: 8, device_train_microbatch_size: 8, max_duration: 30,
        save_interval: 30}}"
    )
}
