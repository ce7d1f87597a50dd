//! `LionW`, skipped steps, Muon and adaptive clipping: the vectors of scripts/golden/optimizers.py.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use olmo_optim::{
    AdamW, AdamWConfig, AdaptiveClip, AdjustLr, LionW, LionWConfig, Muon, MuonConfig, Optimizer,
    SkipStep, SkipStepConfig, UpdateOptions,
};
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;

use super::{golden, tensor, tensors};

/// What the file's metadata says of its runs.
fn settings<T: DeserializeOwned>(name: &str) -> T {
    let bytes = golden(name);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["settings"]).unwrap()
}

fn values(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.to_data().try_into_vec().unwrap()
}

/// The largest difference, relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, y| most.max(y.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0, |worst, (x, y)| f32::max(worst, (x - y).abs() / largest))
}

#[test]
fn lion_follows_the_original_trainer() {
    #[derive(serde::Deserialize)]
    struct Settings {
        betas: [f64; 2],
        weight_decay: f64,
        lr: Vec<f64>,
    }
    let Settings { betas, weight_decay, lr } = settings("lion.safetensors");
    let golden = tensors("lion.safetensors");
    let size = golden["start"].len();
    let mut lion = LionW::new(&LionWConfig { betas }).unwrap();
    let mut weight = tensor(&golden["start"]);
    let mut worst = 0.0_f32;
    for (step, lr) in lr.into_iter().enumerate() {
        let row = step * size..(step + 1) * size;
        let options = UpdateOptions { lr, weight_decay, grad_scale: 1.0 };
        let grad = tensor(&golden["grads"][row.clone()]);
        weight = lion.update("w", weight, grad, &options).unwrap();
        let exp_avg = values(&lion.state("w").unwrap().tensors[0].1);
        for (found, name) in [(values(&weight), "weights"), (exp_avg, "exp_avg")] {
            let off = difference(&found, &golden[name][row.clone()]);
            assert!(off <= 1e-6, "{name} after step {}: {off:e}", step + 1);
            worst = worst.max(off);
        }
    }
    println!("largest difference: {worst:e}");
}

#[test]
fn the_same_steps_are_skipped_as_by_olmo_core() {
    #[derive(serde::Deserialize)]
    struct Run {
        rule: SkipStepConfig,
        is_clipped: bool,
        step_increment_bugfix: bool,
    }
    let golden = tensors("skip_step.safetensors");
    let size = golden["start"].len();
    for (name, run) in settings::<BTreeMap<String, Run>>("skip_step.safetensors") {
        let mut skip = SkipStep::new(&run.rule).unwrap();
        let adamw = AdamW::new(&AdamWConfig::default()).unwrap();
        let mut adamw = adamw.with_step_increment_bugfix(run.step_increment_bugfix);
        let mut weight = tensor(&golden["start"]);
        let mut n_skipped = 0;
        for (step, &expected) in golden[&format!("{name}.skipped")].iter().enumerate() {
            let (loss, norm) = (golden["losses"][step], golden["norms"][step]);
            let admitted = skip.admits(loss.into(), run.is_clipped.then(|| norm.into()));
            assert_eq!(admitted, expected < 0.5, "{name}: step {}", step + 1);
            if admitted {
                let grad = tensor(&golden["grads"][step * size..(step + 1) * size]);
                let options = UpdateOptions { lr: 1e-2, weight_decay: 0.1, grad_scale: 1.0 };
                weight = adamw.update("w", weight, grad, &options).unwrap();
            } else {
                n_skipped += 1;
            }
            if step % 10 == 9 {
                let row = step / 10 * size..(step / 10 + 1) * size;
                let off = difference(&values(&weight), &golden[&format!("{name}.weights")][row]);
                assert!(off <= 1e-6, "{name}: weights after step {}: {off:e}", step + 1);
            }
        }
        assert!(n_skipped > 0, "{name}: nothing was skipped");
        assert_eq!(adamw.step("w").unwrap() as f32, golden[&format!("{name}.step")][0]);
    }
}

#[test]
fn muon_follows_torch() {
    let golden = tensors("muon.safetensors");
    let shapes = [("wide", [6, 17]), ("tall", [20, 5]), ("square", [8, 8])];
    for (run, nesterov, adjust_lr, tolerance) in [
        ("plain", false, AdjustLr::RmsNorm, 2e-5),
        ("nesterov", true, AdjustLr::Original, 2e-5),
        ("bf16", true, AdjustLr::Original, 2e-2),
    ] {
        let config = MuonConfig { nesterov, adjust_lr, ..MuonConfig::default() };
        let mut muon = Muon::new(&config, &AdamWConfig::default(), shapes).unwrap();
        for (name, [rows, columns]) in shapes {
            let (start, size) = (&golden[&format!("start.{name}")], rows * columns);
            let mut weight = tensor(start);
            for step in 0..10 {
                let grad = &golden[&format!("grads.{name}")][step * size..(step + 1) * size];
                let options = UpdateOptions { lr: 0.02, weight_decay: 0.1, grad_scale: 1.0 };
                weight = muon.update(name, weight, tensor(grad), &options).unwrap();
            }
            let (found, expected) = (values(&weight), &golden[&format!("{run}.{name}")]);
            let way = |weight: &[f32]| -> Vec<f32> {
                weight.iter().zip(start).map(|(w, s)| w - s).collect()
            };
            let off = difference(&way(&found), &way(expected));
            println!("{run} {name}: {off:e} of the way");
            assert!(off <= tolerance, "{run} {name}: {off:e}");
            if let Some(expected) = golden.get(&format!("{run}.momentum.{name}")) {
                let momentum = values(&muon.state(name).unwrap().tensors[0].1);
                let off = difference(&momentum, expected);
                assert!(off <= 1e-6, "{run} {name}: momentum {off:e}");
            }
        }
    }
}

#[test]
fn adaptive_clipping_follows_the_original_trainer() {
    let golden = tensors("adaptive_clip.safetensors");
    let mut clip = AdaptiveClip::new();
    let mut n_clipped = 0;
    for (i, &ratio) in golden["ratios"].iter().enumerate() {
        for (j, name) in ["p0", "p1", "p2"].into_iter().enumerate() {
            let at = 3 * i + j;
            let norm = f64::from(golden["norms"][at]);
            let step = i as u64 + 1;
            let found = clip.coefficient(name, norm, ratio.into(), [0.9, 0.95], step) as f32;
            let expected = golden["coefficients"][at];
            assert!((found - expected).abs() <= 1e-6 * expected, "{name}, step {step}");
            n_clipped += usize::from(found < 1.0);
            if step > 1 {
                let (average, expected) = (clip.averages()[name], golden["averages"][at]);
                assert!((average - expected).abs() <= 1e-6 * expected, "{name}, step {step}");
            }
        }
    }
    assert!((10..140).contains(&n_clipped), "{n_clipped}");
}
