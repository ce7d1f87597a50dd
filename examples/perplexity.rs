//! Bits per byte: how well a model knows a text, whatever its tokenizer.
//!
//! A model without training gives every token about the same probability, so a token costs about
//! the logarithm of the vocabulary.
//!
//! Run: `cargo run --example perplexity`

use std::ops::ControlFlow;

use burn::tensor::Device;
use olmo_data::BpeTraining;
use olmo_eval::{FirstToken, PerplexityEval, TokenizedDocument};
use olmo_model::{InitConfig, Transformer, presets};

const TEXTS: [&str; 3] = [
    "The heron stands in the shallow water and waits.",
    "The otter waits in the water, and the heron stands.",
    "In the shallow water stands the heron, and waits for the otter.",
];

fn main() -> anyhow::Result<()> {
    let tokenizer = BpeTraining::new(280).train(TEXTS.map(|text| Ok(text.to_owned())))?;
    let config = presets::small_olmo(32, 2, 4, tokenizer.vocab_size());
    let model = Transformer::init(&config, &InitConfig::default(), 0, &Device::flex())?;

    // Every document is read after an end-of-text token, so that each of its tokens is scored.
    let eval = PerplexityEval::new(&model, FirstToken::After(tokenizer.eos_id()?))?
        .with_batch_size(2)?
        .with_seq_len(16)?;
    let documents = TEXTS.map(|text| TokenizedDocument::encode(text, &tokenizer));
    let sums = eval.run(documents, &mut |_| ControlFlow::Continue(()))?;

    println!("{} documents, {} tokens", sums.n_documents, sums.n_tokens);
    println!("perplexity    {:>8.2}, of {} tokens", sums.perplexity(), config.vocab_size);
    if let Some(bits) = sums.bits_per_byte() {
        println!("bits per byte {bits:>8.2}");
    }
    Ok(())
}
