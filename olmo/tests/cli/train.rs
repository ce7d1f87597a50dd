//! `olmo train` before and around its steps: what a run takes, official configurations, refusals.

use olmo_model::presets;
use olmo_train::step::{ActivationCosts, Activations, Precision};

use crate::json_of;

/// The most memory that a process has held that made two steps with such activations.
fn peak_bytes(activations: &str) -> f64 {
    let report = json_of([
        "bench",
        "train",
        "--d-model=128",
        "--n-layers=8",
        "--n-heads=4",
        "--vocab-size=512",
        "--seq-len=128",
        "--micro-batch=8",
        "--steps=1",
        "--json",
        "--activations",
        activations,
    ]);
    report["peak_bytes"].as_f64().unwrap()
}

/// Peaks depend on the allocator too, so the bounds are wide.
#[cfg(target_os = "linux")]
#[test]
fn activations_take_about_what_is_estimated() {
    let model = presets::small_olmo(128, 8, 4, 512);
    let costs = ActivationCosts::new(&model, 8 * 128, Precision::F32);
    let [all, half, none] = ["keep", "keep_last=4", "recompute"].map(peak_bytes);
    // Where blocks are computed again, the graph of one is there at a time.
    let one = (costs.block_bytes - costs.input_bytes) as f64;
    let saved = |kept: Activations| (costs.bytes(Activations::Keep) - costs.bytes(kept)) as f64;
    for (name, found, expected) in [
        ("recompute", all - none, saved(Activations::Recompute) - one),
        ("keep_last", all - half, saved(Activations::KeepLast(4))),
    ] {
        let ratio = found / expected;
        assert!((0.6..1.5).contains(&ratio), "{name}: {found:e} saved, {expected:e} estimated");
    }
}
