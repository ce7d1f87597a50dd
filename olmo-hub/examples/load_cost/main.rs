//! What opening and loading a released shape costs, with weights that take no room on the disk:
//! `cargo run --release -p olmo-hub --example load_cost -- olmo2_7b bf16`. With a folder after that,
//! such a model is left there, for the command to convert.

mod sparse;

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use burn::tensor::Device;
use olmo_hub::{Dtype, ModelFolder};
use olmo_model::presets;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [preset, dtype, folder @ ..] = arguments.as_slice() else {
        return Err("give PRESET f32|bf16 [DIR]".into());
    };
    let model = presets::by_name(preset).ok_or("no such preset")?;
    let dtype = if dtype == "f32" { Dtype::F32 } else { Dtype::Bf16 };
    if let [dir] = folder {
        std::fs::create_dir_all(dir)?;
        sparse::write(&model, dtype, dir.as_ref())?;
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (weights, header) = sparse::write(&model, dtype, dir.path())?;

    let start = Instant::now();
    let folder = ModelFolder::open(dir.path())?;
    let opened = start.elapsed().as_secs_f64();
    let before = peak_rss();
    let start = Instant::now();
    let loaded = folder.load(&Device::flex(), None)?;
    let seconds = start.elapsed().as_secs_f64();
    let n_tensors = loaded.config().parameters().len();
    let peak = peak_rss();
    let times = peak as f64 / weights as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{preset}: {n_tensors} tensors, {weights} bytes, header {header} bytes")?;
    writeln!(out, "opened in {opened:.4} s, peak memory {before} bytes")?;
    writeln!(out, "loaded in {seconds:.2} s, peak memory {peak} bytes, {times:.4} of the weights")?;
    Ok(())
}

/// The most memory the process has had, in bytes; 0 where the system does not say.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
