//! `olmo devices`: what was compiled in, and what was found.

use anyhow::Result;
use burn::tensor::Device;
use clap::Args;
use serde::Serialize;

use crate::device::{Backend, DeviceName};
use crate::output;

/// List the devices that a model can run on
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  olmo devices --json")]
pub(crate) struct Devices {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Listing {
    devices: Vec<Found>,
    /// Compiled in, but with no device on this machine.
    not_found: Vec<&'static str>,
    not_compiled_in: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Found {
    /// What to give to `--device`.
    name: String,
    description: String,
    /// Threads that it computes with, where that is ours to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_threads: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Missing {
    name: &'static str,
    feature: &'static str,
}

impl Devices {
    pub(crate) fn run(&self) -> Result<()> {
        let listing = Listing::take();
        if self.json {
            return Ok(output::json(&listing)?);
        }
        for Found { name, description, n_threads } in &listing.devices {
            let threads = n_threads.map(|n| format!(", {n} threads")).unwrap_or_default();
            output::line(format!("{name:<12} {description}{threads}"))?;
        }
        for name in &listing.not_found {
            output::line(format!("{name:<12} compiled in, no device found"))?;
        }
        for Missing { name, feature } in &listing.not_compiled_in {
            output::line(format!("{name:<12} not compiled in; add `--features {feature}`"))?;
        }
        Ok(())
    }
}

impl Listing {
    fn take() -> Self {
        let (mut devices, mut not_found, mut not_compiled_in) = (vec![], vec![], vec![]);
        for backend in Backend::ALL {
            let (name, feature) = (backend.name(), backend.feature());
            match backend.devices() {
                None => not_compiled_in.push(Missing { name, feature }),
                Some(found) if found.is_empty() => not_found.push(name),
                Some(found) => devices.extend(found.iter().enumerate().map(|(index, device)| {
                    let n_threads = (backend == Backend::Flex).then(rayon::current_num_threads);
                    let name = DeviceName::new(backend, index).to_string();
                    Found { name, description: describe(backend, device), n_threads }
                })),
            }
        }
        Self { devices, not_found, not_compiled_in }
    }
}

fn describe(backend: Backend, device: &Device) -> String {
    if backend == Backend::Flex {
        return "CPU, pure Rust".to_owned();
    }
    #[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
    if let Some(identity) = device.identity() {
        return identity.name.to_string();
    }
    format!("{device:?}")
}
