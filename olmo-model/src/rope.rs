//! Sine and cosine tables of rotary positions.
//!
//! `inv_freq[i] = 1 / theta^(2i / head_dim)`, angles `position * inv_freq`, all f32 in the reference's
//! order of operations (`transformers` `Olmo2RotaryEmbedding`), since at position 4095 the last bit
//! of a frequency moves an angle by 1e-4. YaRN is `_compute_yarn_parameters` of `transformers`, to the
//! last bit too. OLMo-core `nn/rope.py` ends its ramp within half of `head_dim`, not within all of it;
//! only tiny heads differ.

use std::f64::consts::PI;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{ModelConfig, RopeConfig, YarnConfig};

/// Tables for a range of positions, `[seq, head_dim / 2]` in f32; `[batch * seq, head_dim / 2]` for
/// rows that have positions of their own.
#[derive(Debug, Clone)]
pub struct RopeTables {
    /// Cosines.
    pub cos: Tensor<2>,
    /// Sines.
    pub sin: Tensor<2>,
}

/// The positions of a forward pass, made once and used by every block.
#[derive(Debug, Clone)]
pub struct Positions {
    full: RopeTables,
    /// Tables of layers with a sliding window, where they differ.
    windowed: Option<RopeTables>,
    /// Leading places of each row that hold no token; the position after them is 0.
    padding: Option<Arc<[usize]>>,
    /// Places up to and with those of this pass.
    end: usize,
}

impl Positions {
    /// Tables for the tokens at `range`.
    pub fn new(config: &ModelConfig, range: Range<usize>, device: &Device) -> Self {
        Self::of_rows(config, range, None, device)
    }

    /// Tables for the tokens at the places `range` of rows that begin with `padding` places which
    /// hold no token; `None` is no padding in any row.
    pub fn of_rows(
        config: &ModelConfig,
        range: Range<usize>,
        padding: Option<Arc<[usize]>>,
        device: &Device,
    ) -> Self {
        let (rope, head_dim) = (&config.attention.rope, config.attention.head_dim);
        let extended = rope.yarn.is_some() && config.attention.window.is_some();
        let plain = RopeConfig { yarn: None, ..rope.clone() };
        let tables = |rope: &RopeConfig| match &padding {
            None => RopeTables::new(rope, head_dim, range.clone(), device),
            Some(padding) => {
                let row = |&n: &usize| range.clone().map(move |place| place.saturating_sub(n));
                RopeTables::new(rope, head_dim, padding.iter().flat_map(row), device)
            }
        };
        let windowed = extended.then(|| tables(&plain));
        Self { full: tables(rope), windowed, end: range.end, padding }
    }

    pub(crate) fn tables(&self, window: Option<usize>) -> &RopeTables {
        match (&self.windowed, window) {
            (Some(tables), Some(_)) => tables,
            _ => &self.full,
        }
    }

    /// How many of the last `n_keys` keys hold no token, of each row.
    pub(crate) fn padding(&self, n_keys: usize) -> Option<Arc<[usize]>> {
        let forgotten = self.end - n_keys;
        let padding = self.padding.as_ref()?;
        if forgotten == 0 {
            return Some(Arc::clone(padding));
        }
        Some(padding.iter().map(|n| n.saturating_sub(forgotten)).collect())
    }
}

impl RopeTables {
    /// Tables of one kind of layer for the given positions.
    pub fn new(
        rope: &RopeConfig,
        head_dim: usize,
        positions: impl Iterator<Item = usize> + Clone,
        device: &Device,
    ) -> Self {
        let frequencies = rope.inverse_frequencies(head_dim);
        let factor = rope.yarn.as_ref().map_or(1.0, YarnConfig::attention_scale);
        let table = |f: fn(f32) -> f32| {
            let angles =
                positions.clone().flat_map(|p| frequencies.iter().map(move |w| p as f32 * w));
            let values: Vec<f32> = angles.map(|angle| f(angle) * factor).collect();
            let shape = [values.len() / (head_dim / 2), head_dim / 2];
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }
}

impl RopeConfig {
    /// `head_dim / 2` angles per position, in radians.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let wavelengths = (0..head_dim / 2).map(|i| {
            // The exponent is rounded to f32 first, and the power before its reciprocal.
            let exponent = (2 * i) as f32 / head_dim as f32;
            self.theta.powf(f64::from(exponent)) as f32
        });
        match &self.yarn {
            None => wavelengths.map(|wavelength| 1.0 / wavelength).collect(),
            Some(yarn) => {
                let ramp = yarn.ramp(self.theta, head_dim);
                let mixed = |(wavelength, ramp): (f32, f32)| {
                    let (kept, stretched) =
                        (1.0 / wavelength, 1.0 / (yarn.factor as f32 * wavelength));
                    let extrapolated = 1.0 - ramp;
                    stretched * (1.0 - extrapolated) + kept * extrapolated
                };
                wavelengths.zip(ramp).map(mixed).collect()
            }
        }
    }
}

impl YarnConfig {
    /// The factor on sine and cosine.
    pub fn attention_scale(&self) -> f32 {
        self.attention_factor.unwrap_or_else(|| 0.1 * self.factor.ln() + 1.0) as f32
    }

    /// How far each pair of dimensions is interpolated, from 0 (not) to 1 (fully).
    fn ramp(&self, theta: f64, head_dim: usize) -> impl Iterator<Item = f32> + use<> {
        let context = self.original_max_sequence_length as f64;
        let dimension =
            |turns: f64| head_dim as f64 * (context / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let low = dimension(self.beta_fast).floor().max(0.0);
        let high = dimension(self.beta_slow).ceil().min(head_dim as f64 - 1.0);
        let width = (high - low).max(1e-3) as f32;
        (0..head_dim / 2).map(move |i| ((i as f32 - low as f32) / width).clamp(0.0, 1.0))
    }
}
