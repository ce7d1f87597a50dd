//! The next tokens of every row through the model, for the logits of each row's last.
//!
//! On the CPU a long prompt goes through in parts, since activations, some 40 bytes for each
//! of `d_model` and token, would weigh more the longer it is. A part is long enough that reading the
//! weights once more for it costs a hundredth or two of its products. Logits are the same to the last bit.

use burn::tensor::Device;

use crate::cache::KvCache;
use crate::config::{FeedForwardConfig, ModelConfig};
use crate::error::Error;
use crate::integers::token_tensor;
use crate::kernels;
use crate::transformer::Transformer;

/// Tokens that a matrix is multiplied with at least before it is read again.
const TOKENS_PER_MATRIX: usize = 256;

impl Transformer {
    /// Runs the next tokens of every row, shorter rows padded before them, and gives the logits of
    /// each row's last.
    ///
    /// # Errors
    ///
    /// [`Error::SequenceTooLong`] where the tokens do not fit the cache, which is then as it was.
    pub(crate) fn last_logits<'t>(
        &self,
        rows: impl ExactSizeIterator<Item = &'t [u32]> + Clone,
        cache: &mut KvCache,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let (n_rows, n) = (rows.len(), rows.clone().map(<[u32]>::len).max().unwrap_or(0));
        cache.check_room(n)?;
        let device: Device = self.device();
        let part = tokens_at_once(self.config(), n_rows, &device);
        let padded = |row: &'t [u32]| {
            let padding = std::iter::repeat_n(0, n - row.len());
            padding.chain(row.iter().copied())
        };
        let ids: Vec<u32> = rows.flat_map(padded).collect();
        let logits = kernels::on_workers(&device, || {
            let mut start = 0;
            loop {
                let length = part.min(n - start);
                let ids = ids.chunks(n).flat_map(|row| &row[start..start + length]);
                let ids: Vec<u32> = ids.copied().collect();
                let tokens = token_tensor(&ids, [n_rows, length], &device);
                let hidden = self.hidden(tokens, Some(cache))?;
                start += length;
                if start == n {
                    // Only the last token's logits matter; for a long prompt the others are most of
                    // the work.
                    let [_, _, d_model] = hidden.dims();
                    let last = hidden.slice([0..n_rows, length - 1..length, 0..d_model]);
                    return Ok::<_, Error>(self.logits(last));
                }
            }
        })?;
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        Ok(logits.chunks(logits.len() / n_rows).map(<[f32]>::to_vec).collect())
    }
}

/// Tokens of a row that pass through the model together. Of experts each sees a part of them.
fn tokens_at_once(config: &ModelConfig, n_rows: usize, device: &Device) -> usize {
    if !kernels::takes_packed(device) {
        return usize::MAX;
    }
    let per_matrix = match config.feed_forward {
        FeedForwardConfig::Swiglu { .. } => TOKENS_PER_MATRIX,
        FeedForwardConfig::Experts { n_experts, top_k, .. } => {
            TOKENS_PER_MATRIX.saturating_mul(n_experts) / top_k
        }
    };
    per_matrix.div_ceil(n_rows.max(1))
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::{InitConfig, presets};
    use burn::tensor::DType;

    /// Of logits over a cache in f16 against those without, relative to the largest. Measured: 5.9e-4.
    const IN_F16: f64 = 1e-3;

    fn model(config: &ModelConfig) -> Transformer {
        let init = InitConfig::default();
        Transformer::init(config, &init, 0, &Device::flex()).expect("a sound model")
    }

    fn tokens(n: usize) -> Vec<u32> {
        (0..n as u32).map(|i| (i * i + 7 * i) % 97).collect()
    }

    fn logits(model: &Transformer, row: &[u32]) -> Vec<f32> {
        let tokens = token_tensor(row, [1, row.len()], &model.device());
        let logits = model.forward(tokens, None).expect("it fits").into_data();
        logits.iter::<f32>().skip((row.len() - 1) * model.config().vocab_size).collect()
    }

    fn apart(found: &[f32], expected: &[f32]) -> f64 {
        let largest = expected.iter().fold(0.0_f32, |max, x| x.abs().max(max));
        let apart = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()));
        apart.fold(0.0, |max, x| if x <= max { max } else { x }) / f64::from(largest)
    }

    /// Prompts of several parts, alone and with one that is shorter than the last part, give the bits
    /// of one pass without a cache.
    #[test]
    fn parts_of_a_prompt_are_the_prompt() {
        let families = [
            presets::small_olmo(32, 2, 4, 97),
            presets::small_olmo3(32, 4, 4, 97, 24),
            presets::small_olmoe(32, 2, 4, 97, 8, 4),
        ];
        for config in families {
            let model = model(&config);
            let part = tokens_at_once(&config, 1, &model.device());
            let rows = [tokens(2 * part + 5), tokens(3)];
            for rows in [&rows[..1], &rows] {
                let longest = rows[0].len();
                let padding: Vec<usize> = rows.iter().map(|row| longest - row.len()).collect();
                let mut cache = model.new_cache(rows.len(), longest).with_padding(&padding);
                let found = model.last_logits(rows.iter().map(Vec::as_slice), &mut cache);
                for (found, row) in found.expect("it fits").iter().zip(rows) {
                    assert_eq!(found, &logits(&model, row), "{:?}", config.feed_forward);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_leaves_the_cache_as_it_was() {
        let model = model(&presets::small_olmo2(32, 1, 4, 97));
        let mut cache = model.new_cache(1, 300);
        let rows = tokens(301);
        assert!(model.last_logits([&rows[..]].into_iter(), &mut cache).is_err());
        assert!(cache.is_empty());
        assert!(model.last_logits([&rows[..300]].into_iter(), &mut cache).is_ok());
    }

    /// A cache has room for what came and half as much at most, whatever may come.
    #[test]
    fn a_cache_grows_with_its_tokens() {
        let mut config = presets::small_olmo2(32, 1, 4, 97);
        config.max_sequence_length = 100_000;
        let model = model(&config);
        let mut cache = model.new_cache(2, 100_000);
        let per_token = 2 * 2 * config.d_model;
        assert!(cache.n_elements() <= 256 * per_token);
        let row = tokens(700);
        for (start, end) in [(0, 300), (300, 301), (301, 700)] {
            let rows = [&row[start..end]; 2];
            model.last_logits(rows.into_iter(), &mut cache).expect("it fits");
            assert!(cache.n_elements() >= end * per_token, "{end}");
            assert!(cache.n_elements() <= end * 3 / 2 * per_token, "{end}");
        }
    }

    #[test]
    #[should_panic(expected = "the cache is for 2 rows, and 1 come")]
    fn a_cache_for_other_rows_is_refused() {
        let model = model(&presets::small_olmo2(32, 1, 4, 97));
        let mut cache = model.new_cache(2, 9);
        let row = tokens(3);
        let _ = model.last_logits([&row[..]].into_iter(), &mut cache);
    }

    #[test]
    fn a_cache_in_f16_rounds_as_f16() {
        let config = presets::small_olmo2(64, 3, 4, 97);
        let (model, row) = (model(&config), tokens(70));
        let mut cache = KvCache::new(&config, 1, 70, &Device::flex(), DType::F16);
        let mut next = |tokens| model.last_logits([tokens].into_iter(), &mut cache);
        next(&row[..69]).expect("it fits");
        let found = next(&row[69..]).expect("it fits");
        let apart = apart(&found[0], &logits(&model, &row));
        assert!(apart > 0.0 && apart <= IN_F16, "{apart:e}");
    }
}
