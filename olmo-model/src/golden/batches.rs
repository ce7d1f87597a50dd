//! Rows of unequal length in one batch against the same rows alone, and against `transformers`.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::models::{MODELS, olmo3, read, wide};
use super::{Differences, floats};
use crate::{InitConfig, KvCache, Sampling, Transformer, presets};

/// Of logits of a padded row against the row alone, whose sums run in another order. Measured: 1.0e-6.
const PADDED: f64 = 3e-6;

/// The golden greedy continuation of each prompt of 20 tokens, taken up at three places of each: six
/// rows of unequal length in one batch.
#[test]
fn greedy_continuation_of_a_batch() {
    for name in MODELS {
        let (model, golden) = read(name);
        let greedy = golden.integer_rows::<u32>("greedy");
        let (mut prompts, mut expected) = (Vec::new(), Vec::new());
        for (prompt, greedy) in golden.integer_rows::<u32>("tokens").iter().zip(&greedy) {
            for taken in [0, 9, 23] {
                prompts.push([prompt, &greedy[..taken]].concat());
                expected.push(greedy[taken..].to_vec());
            }
        }
        let mut found = vec![Vec::new(); prompts.len()];
        let mut steps = model.generate_batch(&prompts, Sampling::greedy(), 64).expect("sound");
        let mut n_steps = 0;
        while let Some(step) = steps.next() {
            for new in step.expect("finite") {
                found[new.row].push(new.token);
                assert!(steps.logits(new.row).expect("chosen from these").len() > 90);
                if found[new.row].len() == expected[new.row].len() {
                    // Those that started late leave the batch while the others go on.
                    steps.finish(new.row);
                }
            }
            n_steps += 1;
        }
        assert_eq!(n_steps, 64, "{name}");
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn logits_of_padded_rows() {
    let mut differences = Differences::default();
    let device = Device::flex();
    let gqa = |mut config: crate::ModelConfig| {
        config.attention.n_kv_heads = 2;
        config
    };
    // A window shorter than the rows, and positions that differ between kinds of layers.
    for (name, config) in [("olmo2", gqa(presets::small_olmo2(32, 3, 4, 64))), ("olmo3", olmo3())] {
        let model = Transformer::init(&config, &wide(), 1, &device).expect("a sound model");
        let lengths = [17, 23, 4];
        let row = |length: usize| (0..length).map(|i| (i * 7 + length) as i32 % 64).collect();
        let rows: Vec<Vec<i32>> = lengths.iter().map(|&length| row(length)).collect();
        let padding = lengths.map(|length| 23 - length);
        let mut cache = KvCache::new(&config, 3, 23, &device, model.dtype()).with_padding(&padding);
        // What is in the padded places does not matter: here it is a token like any other.
        let padded: Vec<Vec<i32>> =
            rows.iter().map(|row| [vec![9; 23 - row.len()], row.clone()].concat()).collect();
        // In three passes, of which the first lies within the padding of the third row.
        let pieces = [0..11, 11..20, 20..23].map(|range| {
            let part = padded.iter().flat_map(|row| row[range.clone()].to_vec()).collect();
            let tokens: Tensor<2, Int> =
                Tensor::from_data(TensorData::new(part, [3, range.len()]), &device);
            model.forward(tokens, Some(&mut cache)).expect("there is room")
        });
        let found = Tensor::cat(pieces.to_vec(), 1);
        for (i, row) in rows.iter().enumerate() {
            let tokens: Tensor<2, Int> =
                Tensor::from_data(TensorData::new(row.clone(), [1, row.len()]), &device);
            let alone = model.forward(tokens, None).expect("no cache").into_data();
            let found = found.clone().slice([i..i + 1, 23 - row.len()..23]);
            differences.add(&format!("{name}, row of {}", row.len()), found, &alone);
        }
        let all = floats(&found.into_data());
        assert!(all.iter().all(|x| x.is_finite()), "{name}: padded places are not numbers");
    }
    differences.assert_within(PADDED);
}

#[test]
fn a_sampled_row_does_not_depend_on_those_beside_it() {
    let (model, golden) = read("olmo2-gqa");
    let prompts = golden.integer_rows::<u32>("tokens");
    let prompts = [prompts[0].clone(), prompts[1][..7].to_vec(), prompts[0].clone()];
    let sampling = Sampling { min_p: Some(0.01), ..Sampling::temperature(1.0).seed(5) };
    let mut together = vec![Vec::new(); 3];
    for step in model.generate_batch(&prompts, sampling.clone(), 30).expect("sound") {
        step.expect("finite").into_iter().for_each(|new| together[new.row].push(new.token));
    }
    for (row, (prompt, found)) in prompts.iter().zip(&together).enumerate() {
        let alone = model.generate_batch(std::slice::from_ref(prompt), sampling.clone(), 30);
        let alone = alone.expect("sound").behind(row);
        let alone: Vec<u32> =
            alone.flat_map(|step| step.expect("finite")).map(|t| t.token).collect();
        assert_eq!(alone, *found);
    }
    let first = model.generate(&prompts[0], sampling).expect("sound").take(30);
    assert_eq!(first.collect::<Result<Vec<_>, _>>().as_ref(), Ok(&together[0]));
    assert_ne!(together[0], together[1]);
    // The same prompt once more is another draw.
    assert_ne!(together[0], together[2]);
}

#[test]
fn rows_end_where_the_context_does() {
    let config = presets::small_olmo2(16, 1, 2, 32);
    let context = config.max_sequence_length;
    let model = Transformer::init(&config, &InitConfig::default(), 0, &Device::flex());
    let model = model.expect("sound");
    let prompts = [vec![1; context - 2], vec![2; 3]];
    let mut counts = [0; 2];
    for step in model.generate_batch(&prompts, Sampling::greedy(), 9).expect("sound") {
        step.expect("finite").iter().for_each(|new| counts[new.row] += 1);
    }
    // The last token comes from a full context, and is not run itself.
    assert_eq!(counts, [3, 9]);
    let alone = model.generate(&prompts[0], Sampling::greedy()).expect("sound");
    assert_eq!(alone.count(), 3);
    let too_long = [vec![1], vec![1; context + 1]];
    let error = model.generate_batch(&too_long, Sampling::greedy(), 9).expect_err("too long");
    let message =
        format!("row 2: {} tokens do not fit the {context} that there is room for", context + 1);
    assert_eq!(error.to_string(), message);
    assert!(model.generate_batch(&[], Sampling::greedy(), 9).is_err());
    assert_eq!(model.generate_batch(&prompts, Sampling::greedy(), 0).expect("sound").count(), 0);
}

/// A conversation that goes on, one that is cut and one begun anew: the tokens are those of a fresh
/// start, and what was there is not run again.
#[test]
fn going_on_keeps_what_is_common() {
    let (model, golden) = read("olmo2-gqa");
    let rows = golden.integer_rows::<u32>("tokens");
    let mut text = model.generate(&rows[0], Sampling::greedy()).expect("sound");
    let take = |text: &mut crate::Generator<'_>, n| {
        text.by_ref().take(n).collect::<Result<Vec<_>, _>>().expect("finite")
    };
    take(&mut text, 6);
    let longer = [text.tokens(), &rows[1][..4]].concat();
    let cut = [&rows[0][..9], &rows[1]].concat();
    // Of 26 tokens the last was not run yet.
    for (tokens, kept) in [(&longer, 25), (&cut, 9), (&cut, 28), (&rows[1], 0)] {
        assert_eq!(text.go_on_from(tokens), Ok(kept));
        let fresh = model.generate(tokens, Sampling::greedy()).expect("sound").take(8);
        let fresh: Vec<_> = fresh.collect::<Result<_, _>>().expect("finite");
        assert_eq!(take(&mut text, 8), fresh);
    }
    let before = text.tokens().to_vec();
    assert!(text.go_on_from(&[]).is_err() && text.go_on_from(&[9999]).is_err());
    assert_eq!(text.tokens(), before);
}

/// Layers with a window hold too little to go back far: then all is run again.
#[test]
fn going_back_behind_the_window_starts_afresh() {
    let model = Transformer::init(&olmo3(), &wide(), 1, &Device::flex()).expect("a sound model");
    let mut text = model.generate(&[3, 1, 4], Sampling::greedy()).expect("sound");
    text.by_ref().take(45).for_each(|token| assert!(token.is_ok()));
    let longer = [text.tokens(), &[7]].concat();
    let cut = [&longer[..10], &[8, 9]].concat();
    for (tokens, kept) in [(&longer, 47), (&cut, 0)] {
        assert_eq!(text.go_on_from(tokens), Ok(kept));
        let fresh = model.generate(tokens, Sampling::greedy()).expect("sound").take(8);
        assert!(text.by_ref().take(8).eq(fresh), "{kept}");
    }
}
