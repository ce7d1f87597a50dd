//! Whole models against `transformers`: logits and greedy continuations, with a cache and without.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{Differences, Vectors, model_config, read_json};
use crate::config::{SlidingWindow, YarnConfig};
use crate::{Error, InitConfig, KvCache, ModelConfig, Parameter, Sampling, Transformer, presets};

/// Of logits against the reference. Measured: 1.5e-6.
const LOGITS: f64 = 3e-6;

/// Of logits taken in pieces with a cache. Measured: 1.3e-6.
const PIECES: f64 = 3e-6;

/// Of logits with weights and activations in bf16, whose numbers have 8 bits, against f32. Measured:
/// 3.4e-2; PyTorch itself is 2.4e-2 away.
const BF16: f64 = 5e-2;

/// The folders with one f32 file each; shards and other dtypes are the business of `olmo-hub`.
pub(super) const MODELS: [&str; 13] = [
    "olmo-tied",
    "olmo-gqa-clip",
    "olmo-odd",
    "olmo2",
    "olmo2-gqa",
    "olmo2-tied-odd",
    "olmo3",
    "olmo3-gqa-yarn",
    "olmo3-long-odd",
    "olmoe-top1",
    "olmoe-top2-gqa-norm",
    "olmoe-top8-clip",
    "olmoe-top8-norm",
];

#[test]
fn logits() {
    let mut differences = Differences::default();
    for name in MODELS {
        let (model, golden) = read(name);
        let logits = forward(&model, &golden.integer_rows("tokens"), None);
        differences.add(name, logits, &golden.data("logits"));
    }
    differences.assert_within(LOGITS);
}

#[test]
fn greedy_continuation_with_a_cache() {
    for name in MODELS {
        let (model, golden) = read(name);
        let greedy = golden.integer_rows::<u32>("greedy");
        for (prompt, expected) in golden.integer_rows::<u32>("tokens").iter().zip(&greedy) {
            let tokens = model.generate(prompt, Sampling::greedy()).expect("a sound prompt");
            let tokens: Vec<_> = tokens.take(expected.len()).map(|t| t.expect("finite")).collect();
            assert_eq!(tokens, *expected, "{name}");
        }
    }
}

/// One pass over prompt and continuation: at each position the next token must come out on top.
#[test]
fn greedy_continuation_without_a_cache() {
    for name in MODELS {
        let (model, golden) = read(name);
        let (mut rows, greedy) =
            (golden.integer_rows::<i64>("tokens"), golden.integer_rows::<i64>("greedy"));
        let start = rows[0].len() - 1;
        for (row, greedy) in rows.iter_mut().zip(&greedy) {
            row.extend(&greedy[..greedy.len() - 1]);
        }
        let top = forward(&model, &rows, None).argmax(2).into_data();
        let top: Vec<i64> = top.iter::<i64>().collect();
        for (top, greedy) in top.chunks(rows[0].len()).zip(&greedy) {
            assert_eq!(&top[start..], greedy, "{name}");
        }
    }
}

#[test]
fn a_cache_changes_nothing() {
    let mut differences = Differences::default();
    for name in MODELS {
        let (model, golden) = read(name);
        let rows = golden.integer_rows("tokens");
        differences.add(name, in_pieces(&model, &rows), &golden.data("logits"));
    }
    differences.assert_within(PIECES);
}

#[test]
fn a_truncated_cache_continues_where_it_was_cut() {
    let (model, golden) = read("olmo2-gqa");
    let rows = golden.integer_rows::<i64>("tokens");
    let mut cache = KvCache::new(model.config(), 2, 24, &Device::flex(), DType::F32);
    forward(&model, &rows, Some(&mut cache));
    assert!(matches!(
        model.forward(tokens(&rows), Some(&mut cache)),
        Err(Error::SequenceTooLong { length: 40, limit: 24 })
    ));
    cache.truncate(11).expect("nothing was forgotten");
    let rest: Vec<_> = rows.iter().map(|row| row[11..].to_vec()).collect();
    let logits = forward(&model, &rest, Some(&mut cache));
    let expected = golden.tensor::<3>("logits", &Device::flex()).slice([0..2, 11..20]);
    let mut differences = Differences::default();
    differences.add("after 11", logits, &expected.into_data());
    differences.assert_within(PIECES);
}

#[test]
fn bf16_stays_near_f32() {
    let mut differences = Differences::default();
    for name in ["olmo-gqa-clip", "olmo2-gqa"] {
        let (model, golden) = read(name);
        let f32_weights = weights(&model);
        let source = |parameter: &Parameter| {
            let (_, values) =
                f32_weights.iter().find(|(path, _)| *path == parameter.path).expect("listed");
            let data = TensorData::new(values.clone(), parameter.shape.clone());
            Ok::<_, Error>(data.convert_dtype(DType::BF16))
        };
        let model = Transformer::build(model.config(), &Device::flex(), source).expect("sound");
        assert_eq!(model.dtype(), DType::BF16);
        let rows = golden.integer_rows("tokens");
        let logits = forward(&model, &rows, None);
        assert_eq!(logits.dtype(), DType::BF16);
        differences.add(name, logits, &golden.data("logits"));
        differences.add(
            &format!("{name} in pieces"),
            in_pieces(&model, &rows),
            &golden.data("logits"),
        );
    }
    differences.assert_within(BF16);
}

/// A path is a checkpoint key and the name of an optimizer's state: the listing, made from the
/// configuration alone, must be what the module has.
#[test]
fn parameters_are_what_the_configuration_lists() {
    let olmo = presets::small_olmo(16, 2, 2, 24);
    let tied = ModelConfig { weight_tying: true, ..olmo.clone() };
    let olmo3 = presets::small_olmo3(16, 5, 2, 24, 6);
    let olmoe = presets::small_olmoe(16, 2, 2, 24, 4, 2);
    for config in [olmo, tied, presets::small_olmo2(16, 2, 2, 24), olmo3, olmoe] {
        let model = Transformer::init(&config, &InitConfig::default(), 0, &Device::flex());
        let mut found = Vec::new();
        model.expect("sound").visit_parameters(|path, shape, values| {
            assert_eq!(values.dims(), [shape.iter().product::<usize>()]);
            found.push((path.to_owned(), shape.to_vec()));
        });
        let listed: Vec<_> = config.parameters().into_iter().map(|p| (p.path, p.shape)).collect();
        assert_eq!(found, listed);
    }
}

pub(super) fn read(name: &str) -> (Transformer, Vectors) {
    let config = model_config(&read_json(&format!("hf/{name}/config.json")));
    let weights = Vectors::read(&format!("hf/{name}/model.safetensors"));
    let golden = Vectors::read(&format!("hf/{name}/golden.safetensors"));
    (weights.model(&config, &Device::flex()), golden)
}

pub(super) fn tokens(rows: &[Vec<i64>]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &Device::flex())
}

pub(super) fn forward(
    model: &Transformer,
    rows: &[Vec<i64>],
    cache: Option<&mut KvCache>,
) -> Tensor<3> {
    model.forward(tokens(rows), cache).expect("the cache has room")
}

/// Logits of a prompt of 7 tokens, then 5 at once, then one by one.
pub(super) fn in_pieces(model: &Transformer, rows: &[Vec<i64>]) -> Tensor<3> {
    let seq = rows[0].len();
    let mut cache = model.new_cache(rows.len(), seq);
    let starts = [0, 7].into_iter().chain(12..seq);
    let ends = [7, 12].into_iter().chain(13..=seq);
    let pieces = starts.zip(ends).map(|(start, end)| {
        let piece: Vec<_> = rows.iter().map(|row| row[start..end].to_vec()).collect();
        forward(model, &piece, Some(&mut cache))
    });
    Tensor::cat(pieces.collect(), 1)
}

/// A small OLMo 3: windows shorter than the sequence on three of four layers, YaRN on the other.
pub(super) fn olmo3() -> ModelConfig {
    let mut config = presets::small_olmo2(32, 5, 4, 64);
    config.attention.n_kv_heads = 2;
    config.attention.window = Some(SlidingWindow { size: 6, full_every: 4 });
    config.attention.rope.yarn = Some(YarnConfig {
        factor: 8.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_sequence_length: 16,
        attention_factor: None,
    });
    config
}

/// Weights large enough that attention matters.
pub(super) fn wide() -> InitConfig {
    InitConfig::Normal { std: 0.3, cutoff: None, embedding_std: None }
}

pub(super) fn weights(model: &Transformer) -> Vec<(String, Vec<f32>)> {
    let mut weights = Vec::new();
    model.visit_parameters(|path, _, values| {
        weights.push((path.to_owned(), values.into_data().try_into_vec().expect("f32")));
    });
    weights
}

/// A windowed layer's cache: keys move, prompts longer than its room pass through, and going back
/// works as far as it remembers.
#[test]
fn a_windowed_cache_holds_only_its_window() {
    let mut differences = Differences::default();
    let (model, golden) = read("olmo3-long-odd");
    let rows = golden.integer_rows::<i64>("tokens");
    let expected = golden.tensor::<3>("logits", &Device::flex());
    let new_cache = || KvCache::new(model.config(), 2, 150, &Device::flex(), DType::F32);
    let piece = |range: std::ops::Range<usize>| -> Vec<Vec<i64>> {
        rows.iter().map(|row| row[range.clone()].to_vec()).collect()
    };
    // Windows of 37 on two of three layers: 36 + 16 of 150 tokens.
    let [per_token, full, windowed] = [2 * 2 * 48, 150, 52];
    assert_eq!(new_cache().n_elements(), per_token * (full + 2 * windowed));
    for lengths in [vec![150], vec![60, 90], vec![10, 41, 1, 60, 38], vec![1; 150]] {
        let mut cache = new_cache();
        let mut outputs = Vec::new();
        for length in &lengths {
            let start = cache.len();
            outputs.push(forward(&model, &piece(start..start + length), Some(&mut cache)));
            assert_eq!(cache.n_elements(), per_token * (full + 2 * windowed));
        }
        let found = Tensor::cat(outputs, 1);
        differences.add(&format!("{lengths:?}"), found, &expected.clone().into_data());
    }

    let mut cache = new_cache();
    forward(&model, &piece(0..150), Some(&mut cache));
    let forgot = Err(Error::CacheForgot { length: 149, earliest: 150 });
    assert_eq!(cache.truncate(149), forgot);
    assert_eq!(cache.len(), 150);
    cache.truncate(0).expect("an empty cache needs nothing");
    forward(&model, &piece(0..100), Some(&mut cache));
    forward(&model, &piece(100..110), Some(&mut cache));
    cache.truncate(100).expect("36 tokens before it are there");
    let rest = forward(&model, &piece(100..150), Some(&mut cache));
    let expected = expected.slice([0..2, 100..150]).into_data();
    differences.add("after going back", rest, &expected);
    differences.assert_within(PIECES);
}
