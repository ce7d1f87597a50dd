//! Speed, work done, memory and energy, beside what a step measures of the model.
//!
//! FLOPs of a token are OLMo's count ([`Costs`]); MFU (model FLOPs utilisation, arXiv 2204.02311) is
//! in percent, as OLMo-core writes it: FLOPs of the batch over time and the device's peak. With
//! `compat: olmo_core` it is of OLMo-core's count, in which every token attends to all of its instance
//! and every expert is counted.

use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use olmo_model::ModelConfig;
use olmo_model::flops::Costs;
use serde::{Deserialize, Serialize};

use crate::config::Compat;
use crate::energy::{EnergyConfig, Meter};
use crate::step::Precision;

/// What a step cost. Absent is what is not known on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Speed {
    /// Batches per second of this step.
    #[serde(rename = "throughput/device/batches_per_second")]
    pub batches_per_second: f64,
    /// FLOPs of all tokens so far, in billions.
    #[serde(rename = "throughput/total_training_Gflops")]
    pub total_training_gflops: f64,
    /// The natural logarithm of that.
    #[serde(rename = "throughput/total_training_log_Gflops")]
    pub total_training_log_gflops: f64,
    /// FLOPs per second over the device's peak, in percent.
    #[serde(rename = "throughput/device/MFU", skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// The most memory that the process has held.
    #[serde(rename = "System/Peak Memory (MB)", skip_serializing_if = "Option::is_none")]
    pub peak_memory_mb: Option<f64>,
    /// Power of the devices during this step.
    #[serde(rename = "energy/device_watts", skip_serializing_if = "Option::is_none")]
    pub device_watts: Option<f64>,
    /// Energy of the devices so far, that of steps that were made but lost included.
    #[serde(rename = "energy/total_kWh", skip_serializing_if = "Option::is_none")]
    pub total_kwh: Option<f64>,
    /// The same as carbon dioxide equivalent, by the configured effectiveness and intensity.
    #[serde(rename = "energy/total_kgCO2e", skip_serializing_if = "Option::is_none")]
    pub total_kg_co2e: Option<f64>,
}

/// Measures what steps cost.
#[derive(Debug)]
pub(crate) struct Speedometer {
    flops_per_token: f64,
    /// The same as MFU counts them.
    mfu_flops_per_token: f64,
    pub(crate) peak_flops: Option<f64>,
    energy: EnergyConfig,
    meter: Meter,
}

impl Speedometer {
    /// For a model at a sequence length, on a device; `kwh` were drawn before. MFU is that of `compat`.
    pub(crate) fn new(
        model: &ModelConfig,
        seq_len: usize,
        compat: Compat,
        peak_flops: Option<f64>,
        energy: EnergyConfig,
        device: &Device,
        kwh: f64,
    ) -> Self {
        let costs = Costs::at(model, seq_len);
        let flops = costs.forward_flops_per_token as f64 + costs.backward_flops_per_token as f64;
        let meter = Meter::new(&energy, &format!("{device:?}"), kwh);
        let mfu_flops_per_token = match compat {
            Compat::OlmoCore => core_flops_per_token(model, seq_len),
            Compat::None | Compat::Olmo => flops,
        };
        Self { flops_per_token: flops, mfu_flops_per_token, peak_flops, energy, meter }
    }

    /// The cost of a step that took so long.
    pub(crate) fn read(&mut self, elapsed: Duration, n_tokens: u64, total_tokens: u64) -> Speed {
        let seconds = elapsed.as_secs_f64();
        let flops_per_second = self.mfu_flops_per_token * n_tokens as f64 / seconds;
        let gflops = self.flops_per_token * total_tokens as f64 * 1e-9;
        let energy = self.meter.read();
        Speed {
            batches_per_second: 1.0 / seconds,
            total_training_gflops: gflops,
            total_training_log_gflops: gflops.ln(),
            mfu: self.peak_flops.map(|peak| 100.0 * flops_per_second / peak),
            peak_memory_mb: peak_memory_bytes().map(|bytes| bytes as f64 * 1e-6),
            device_watts: energy.map(|(_, watts)| watts),
            total_kwh: energy.map(|(kwh, _)| kwh),
            total_kg_co2e: energy.map(|(kwh, _)| self.energy.carbon_kg(kwh)),
        }
    }
}

/// FLOPs of a token forward and backward as OLMo-core counts them (ai2-olmo-core 2.4.0,
/// `Transformer.num_flops_per_token`).
fn core_flops_per_token(model: &ModelConfig, seq_len: usize) -> f64 {
    let products = 6.0 * model.n_non_embedding_parameters() as f64;
    products + 12.0 * model.n_layers as f64 * model.d_model as f64 * seq_len as f64
}

/// FLOPs per second of a large matrix product on a device, the best of three: what a step's FLOPs are
/// measured by where the peak is not stated.
pub fn measure_peak_flops(device: &Device, precision: Precision) -> f64 {
    let is_cpu = format!("{device:?}").to_lowercase().contains("flex");
    let n: usize = if is_cpu { 1024 } else { 4096 };
    let random = || {
        Tensor::<2>::random([n, n], Distribution::Uniform(-1.0, 1.0), device)
            .cast(precision.dtype())
    };
    let (a, b) = (random(), random());
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let start = Instant::now();
        // Reading an element waits for the device.
        let _ = a.clone().matmul(b.clone()).slice([0..1, 0..1]).into_data();
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (n as f64).powi(3) / best
}

/// The most memory that this process has held.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use olmo_model::presets;

    use super::*;

    #[test]
    fn a_step_that_takes_its_flops_at_peak_speed_has_an_mfu_of_100_percent() {
        let model = presets::small_olmo2(64, 2, 4, 128);
        let costs = Costs::at(&model, 32);
        let per_token = (costs.forward_flops_per_token + costs.backward_flops_per_token) as f64;
        let energy = EnergyConfig { device_watts: Some(50.0), ..EnergyConfig::default() };
        let mut meter = Speedometer::new(
            &model,
            32,
            Compat::None,
            Some(per_token * 100.0),
            energy,
            &Device::flex(),
            3.0,
        );
        let speed = meter.read(Duration::from_secs(2), 200, 1000);
        assert!((speed.mfu.expect("a peak") - 100.0).abs() < 1e-9);
        assert!((speed.total_training_gflops - per_token * 1e-6).abs() < 1e-9);
        assert!((speed.batches_per_second - 0.5).abs() < 1e-12);
        let (kwh, kg) = (speed.total_kwh.expect("stated"), speed.total_kg_co2e.expect("stated"));
        assert!(kwh >= 3.0 && (kg - kwh * 1.1 * 0.332).abs() < 1e-12);
    }

    #[test]
    fn mfu_of_olmo_core_counts_as_olmo_core() {
        #[derive(Deserialize)]
        struct Case {
            preset: String,
            seq_len: usize,
            flops: f64,
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/data/core_flops.json");
        let text = std::fs::read_to_string(path).expect("golden");
        for Case { preset, seq_len, flops } in
            serde_json::from_str::<Vec<Case>>(&text).expect("cases")
        {
            let model = presets::by_name(&preset).expect("a preset");
            let found = core_flops_per_token(&model, seq_len);
            assert!((found - flops).abs() < 0.5, "{preset} at {seq_len}: {found}, not {flops}");
            let meter = |compat| {
                let energy = EnergyConfig::default();
                Speedometer::new(&model, seq_len, compat, Some(flops), energy, &Device::flex(), 0.0)
            };
            let speed = meter(Compat::OlmoCore).read(Duration::from_secs(1), 1, 1);
            assert!((speed.mfu.expect("a peak") - 100.0).abs() < 1e-9);
            let ours = meter(Compat::None).read(Duration::from_secs(1), 1, 1);
            assert!((ours.total_training_gflops - speed.total_training_gflops).abs() < 1e-9);
        }
    }

    #[test]
    fn the_peak_of_a_device_is_measured() {
        let peak = measure_peak_flops(&Device::flex(), Precision::F32);
        assert!(peak.is_finite() && peak > 1e7, "{peak}");
    }
}
