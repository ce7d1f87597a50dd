//! `olmo train --dry-run`: what a run is and takes, without its data being opened.

use anyhow::Result;
use olmo_model::{Costs, Sharding};
use olmo_optim::BatchStage;
use olmo_train::TrainConfig;
use olmo_train::missing::missing_files;
use olmo_train::step::Precision;
use serde::Serialize;

use crate::output;

/// FLOPs per second of an NVIDIA H100 SXM in bf16, which OLMo-core's MFU goes by.
const H100_FLOPS: f64 = 989.5e12;
/// Watts of the same at most.
const H100_WATTS: f64 = 700.0;

/// What is supposed of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    pub(super) n_devices: usize,
    /// Part of the peak FLOPs that the run makes use of.
    pub(super) mfu: f64,
}

/// What a run takes.
#[derive(Debug, Serialize)]
struct Estimate {
    steps: u64,
    /// That of the first step where batches grow.
    tokens_per_step: u64,
    /// Steps whose batches have one size, in order.
    batches: Vec<BatchStage>,
    tokens: u64,
    parameters: u64,
    flops_per_token: u64,
    flops: f64,
    devices: usize,
    device_peak_flops: f64,
    mfu: f64,
    days: f64,
    /// Bytes of weights, gradients and optimizer state.
    bytes_per_device: Bytes,
    /// Estimate of what blocks hold for a micro-batch between the passes.
    activation_bytes: u64,
    /// Blocks whose forward pass is made again.
    recomputed_blocks: usize,
    device_watts: f64,
    kwh: f64,
    carbon_kg: f64,
}

#[derive(Debug, Serialize)]
struct Bytes {
    single: u64,
    zero1: u64,
    zero2: u64,
    zero3: u64,
}

impl Estimate {
    fn new(config: &TrainConfig, machine: Machine) -> Self {
        let costs = Costs::at(&config.model, config.data.sequence_length);
        let steps = config.last_step(0);
        let plan = config.batch_plan();
        let tokens = plan.tokens_of(steps);
        let mut batches = plan.stages().to_vec();
        batches.retain(|stage| stage.steps_before < steps);
        let flops_per_token = costs.forward_flops_per_token + costs.backward_flops_per_token;
        let flops = flops_per_token as f64 * tokens as f64;
        let peak = config.device_peak_flops.unwrap_or(H100_FLOPS);
        let Machine { n_devices, mfu } = machine;
        let seconds = flops / (peak * mfu * n_devices as f64);
        let watts = config.energy.device_watts.unwrap_or(H100_WATTS);
        let kwh = watts * n_devices as f64 * seconds / 3.6e6;
        let activations = config.activation_costs();
        let mixed = config.precision == Precision::AmpBf16;
        let bytes = |sharding| costs.train_bytes_per_device(sharding, n_devices, mixed);
        Self {
            steps,
            tokens_per_step: config.tokens_per_step(),
            batches,
            tokens,
            parameters: costs.n_parameters,
            flops_per_token,
            flops,
            devices: n_devices,
            device_peak_flops: peak,
            mfu,
            days: seconds / 86_400.0,
            bytes_per_device: Bytes {
                single: bytes(Sharding::Single),
                zero1: bytes(Sharding::Zero1),
                zero2: bytes(Sharding::Zero2),
                zero3: bytes(Sharding::Zero3),
            },
            activation_bytes: activations.bytes(config.activations),
            recomputed_blocks: config.model.n_layers - activations.n_kept(config.activations),
            device_watts: watts,
            kwh,
            carbon_kg: config.energy.carbon_kg(kwh),
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let Bytes { single, zero1, zero2, zero3 } = self.bytes_per_device;
        let [single, zero1, zero2, zero3] = [single, zero1, zero2, zero3].map(output::bytes);
        let counted = |n: u64| format!("{} ({})", output::grouped(n), output::scaled(n));
        let of_step = |stage: &BatchStage| {
            let tokens = output::grouped(stage.batch_tokens);
            match stage.steps_before {
                0 => tokens,
                steps => format!("{tokens} after step {}", output::grouped(steps)),
            }
        };
        let per_step: Vec<String> = self.batches.iter().map(of_step).collect();
        vec![
            ("steps", output::grouped(self.steps)),
            ("tokens per step", per_step.join("; ")),
            ("tokens", counted(self.tokens)),
            ("parameters", counted(self.parameters)),
            ("FLOPs per token", output::scaled(self.flops_per_token)),
            ("FLOPs", format!("{:.3e}", self.flops)),
            (
                "memory per device",
                format!(
                    "{single} alone, {zero1} with ZeRO-1 on {}, {zero2} ZeRO-2, {zero3} ZeRO-3; activations come on top: about {} a micro-batch, {} blocks recomputed",
                    self.devices,
                    output::bytes(self.activation_bytes),
                    self.recomputed_blocks
                ),
            ),
            (
                "time",
                format!(
                    "{:.2} days on {} devices of {:.3e} FLOPs per second at {:.0} % of them",
                    self.days,
                    self.devices,
                    self.device_peak_flops,
                    100.0 * self.mfu
                ),
            ),
            (
                "energy",
                format!(
                    "{:.3} MWh at {:.0} W a device, {:.3} t CO2e",
                    self.kwh / 1e3,
                    self.device_watts,
                    self.carbon_kg / 1e3
                ),
            ),
        ]
    }
}

/// Prints the resolved configuration and what the run takes.
pub(super) fn print(config: &TrainConfig, machine: Machine, json: bool) -> Result<()> {
    let estimate = Estimate::new(config, machine);
    if json {
        let missing: Vec<String> = missing_files(config).iter().map(ToString::to_string).collect();
        let value = serde_json::json!({"config": config, "estimate": estimate, "missing": missing});
        return Ok(output::json(&value)?);
    }
    output::line(config.to_yaml()?)?;
    for (label, text) in estimate.lines() {
        output::line(format!("{label:<18} {text}"))?;
    }
    for files in missing_files(config) {
        output::line(format!("{:<18} {files}", "missing"))?;
    }
    Ok(())
}
