//! Tests of [`perplexity`](super) on models small enough to reason about.

use std::ops::ControlFlow;

use burn::tensor::{Device, TensorData};
use olmo_model::config::ModelConfig;
use olmo_model::{InitConfig, presets};

use super::*;

const EOS: u32 = 3;

fn config() -> ModelConfig {
    ModelConfig { max_sequence_length: 6, ..presets::small_olmo2(16, 2, 2, 40) }
}

fn model() -> Transformer {
    model_with(|_, _| ())
}

/// The model with values changed: `change(path, values)` for each parameter.
fn model_with(change: impl Fn(&str, &mut [f32])) -> Transformer {
    let config = config();
    let wide = InitConfig::Normal { std: 0.3, cutoff: None, embedding_std: None };
    let built = Transformer::build(&config, &Device::flex(), |parameter| {
        let initial = wide.initial(&config, parameter);
        let mut values = initial.draw(parameter.n_elements(), 7, &parameter.path);
        change(&parameter.path, &mut values);
        Ok::<_, olmo_model::Error>(TensorData::new(values, parameter.shape.clone()))
    });
    built.expect("a sound configuration")
}

/// A model that makes every token equally likely: a head of zeros.
fn uniform() -> Transformer {
    model_with(|path, values| {
        if path == "lm_head.w_out.weight" {
            values.fill(0.0);
        }
    })
}

fn documents(lengths: &[usize]) -> Vec<TokenizedDocument> {
    let document = |(i, &n): (usize, &usize)| TokenizedDocument {
        tokens: (0..n).map(|j| ((j * 7 + i * 11) % 40) as u32).collect(),
        n_bytes: Some(3 * n as u64),
    };
    lengths.iter().enumerate().map(document).collect()
}

fn run(eval: &PerplexityEval, documents: Vec<TokenizedDocument>) -> Result<Perplexity> {
    eval.run(documents.into_iter().map(Ok), &mut |_| ControlFlow::Continue(()))
}

/// The loss of one document by one forward pass for each token: no window, no batch, no padding.
fn token_by_token(model: &Transformer, tokens: &[u32], seq_len: usize) -> f64 {
    let tokens: Vec<u32> = std::iter::once(EOS).chain(tokens.iter().copied()).collect();
    let mut nll = 0.0;
    for window in windows(tokens.len(), seq_len) {
        for at in window.first_scored..=window.end {
            let read = &tokens[window.start..at];
            let read = token_tensor(read, [1, read.len()], &model.device());
            let logits = model.forward(read, None);
            let logits: Vec<f32> = logits.expect("no cache").into_data().iter::<f32>().collect();
            let last: Vec<f64> = logits[logits.len() - 40..].iter().map(|&x| x.into()).collect();
            let lse = last.iter().map(|x| x.exp()).sum::<f64>().ln();
            nll += lse - last[tokens[at] as usize];
        }
    }
    nll
}

#[test]
fn a_uniform_model_costs_ln_of_the_vocabulary_a_token() {
    let model = uniform();
    let eval = PerplexityEval::new(&model, FirstToken::After(EOS)).unwrap();
    let sums = run(&eval, documents(&[1, 20, 0, 6])).unwrap();
    assert_eq!((sums.n_documents, sums.n_tokens, sums.n_bytes), (4, 27, Some(81)));
    assert!((sums.loss() - 40_f64.ln()).abs() < 1e-6, "{sums:?}");
    assert!((sums.perplexity() - 40.0).abs() < 1e-4, "{sums:?}");
    let bits = sums.bits_per_byte().unwrap();
    assert!((bits - 40_f64.log2() / 3.0).abs() < 1e-6, "{bits}");
}

#[test]
fn sums_are_those_of_one_pass_for_each_token() {
    let model = model();
    let documents = documents(&[1, 17, 6, 7, 3]);
    let expected: f64 = documents.iter().map(|d| token_by_token(&model, &d.tokens, 6)).sum();
    let eval = PerplexityEval::new(&model, FirstToken::After(EOS)).unwrap();
    let sums = run(&eval, documents).unwrap();
    assert_eq!(sums.n_tokens, 34);
    assert!((sums.nll_nats / expected - 1.0).abs() < 1e-6, "{} {expected}", sums.nll_nats);
    // Far from uniform, so that a label in the wrong place shows.
    assert!((sums.loss() - 40_f64.ln()).abs() > 0.05, "{sums:?}");
}

#[test]
fn batching_does_not_change_the_result() {
    let model = model();
    let eval = PerplexityEval::new(&model, FirstToken::After(EOS)).unwrap();
    let one = run(&eval.clone().with_batch_size(1).unwrap(), documents(&[5, 23, 2, 9])).unwrap();
    for batch_size in [2, 3, 7, 100] {
        let eval = eval.clone().with_batch_size(batch_size).unwrap();
        let many = run(&eval, documents(&[5, 23, 2, 9])).unwrap();
        assert_eq!(many.n_tokens, one.n_tokens);
        assert!((many.nll_nats / one.nll_nats - 1.0).abs() < 1e-6, "{batch_size}");
    }
}

#[test]
fn an_unscored_first_token_is_not_counted() {
    let model = uniform();
    let eval = PerplexityEval::new(&model, FirstToken::Unscored).unwrap();
    let sums = run(&eval, documents(&[1, 20, 0, 6])).unwrap();
    assert_eq!((sums.n_tokens, sums.n_bytes, sums.bits_per_byte()), (24, None, None));
    let nothing = run(&eval, documents(&[1, 0])).unwrap_err();
    assert_eq!(nothing.to_string(), "no tokens to score in 2 documents");
}

#[test]
fn shorter_windows_know_less() {
    let model = model();
    let eval = PerplexityEval::new(&model, FirstToken::After(EOS)).unwrap();
    let long = documents(&[12]);
    let expected = token_by_token(&model, &long[0].tokens, 2);
    let sums = run(&eval.clone().with_seq_len(2).unwrap(), long.clone()).unwrap();
    assert!((sums.nll_nats / expected - 1.0).abs() < 1e-6);
    assert!((sums.nll_nats - run(&eval, long).unwrap().nll_nats).abs() > 1e-3);
}

#[test]
fn a_token_file_has_no_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-0-00000.npy");
    std::fs::write(&path, (0..13_u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let document = TokenizedDocument::from_token_file(&path, TokenDtype::Uint16).unwrap();
    assert_eq!(document.tokens, (0..13).collect::<Vec<_>>());
    let model = uniform();
    let eval = PerplexityEval::new(&model, FirstToken::After(EOS)).unwrap();
    let sums = run(&eval, vec![document]).unwrap();
    assert_eq!((sums.n_tokens, sums.bits_per_byte()), (13, None));
    assert!(TokenizedDocument::from_token_file(&path, TokenDtype::Uint32).is_err());
}

#[test]
fn what_cannot_be_scored_is_an_error() {
    let model = model();
    let eval = PerplexityEval::new(&model, FirstToken::After(EOS)).unwrap();
    let mut past = documents(&[3, 4]);
    past[1].tokens[2] = 40;
    let error = run(&eval, past).unwrap_err().to_string();
    assert_eq!(error, "document 2: token id 40 at position 2 is past the vocabulary of 40");
    let error = PerplexityEval::new(&model, FirstToken::After(40)).unwrap_err();
    assert!(matches!(error, Error::ContextToken { id: 40, vocab_size: 40 }));
    assert!(eval.clone().with_seq_len(7).is_err() && eval.clone().with_seq_len(0).is_err());
    assert!(eval.clone().with_batch_size(0).is_err());
    let stopped = eval.run(documents(&[3]).into_iter().map(Ok), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

#[test]
fn a_damaged_model_is_an_error() {
    let damaged = model_with(|path, values| {
        if path == "blocks.1.feed_forward.w2.weight" {
            values[3] = f32::NAN;
        }
    });
    let eval = PerplexityEval::new(&damaged, FirstToken::After(EOS)).unwrap();
    let error = run(&eval, documents(&[3, 4])).unwrap_err().to_string();
    assert!(error.starts_with("the loss of documents 1 to 2 is not finite"), "{error}");
}
