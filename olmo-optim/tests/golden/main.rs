//! Against torch and ai2-olmo: the vectors of scripts/golden/optim.py, `core_schedules.py` and `durations.py`.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::float_cmp, reason = "where numbers are compared at once, equal bits are meant")]

mod optimizers;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor};
use olmo_optim::{
    AdamW, AdamWConfig, BatchPlan, GradNormLimit, GroupRules, Optimizer, ParamGroups, ParamKind,
    Schedule, UpdateOptions, clip_coefficient, global_norm,
};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn golden(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/optim");
    std::fs::read(folder.join(name)).unwrap()
}

fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&golden(name)).unwrap()
}

/// All tensors of a safetensors file, flattened.
fn tensors(name: &str) -> BTreeMap<String, Vec<f32>> {
    let bytes = golden(name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| {
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    file.tensors().into_iter().map(|(name, view)| (name, values(view.data()))).collect()
}

fn tensor(values: &[f32]) -> Tensor<1> {
    Tensor::from_floats(values, &Device::flex())
}

/// The largest |found - expected| / scale.
fn largest_difference(found: Tensor<1>, expected: &[f32], scales: &[f64]) -> f64 {
    let found: Vec<f32> = found.into_data().try_into_vec().unwrap();
    assert_eq!(found.len(), expected.len());
    assert_eq!(found.len(), scales.len());
    let pairs = found.iter().zip(expected).zip(scales);
    pairs.fold(0.0, |worst, ((&x, &y), scale)| {
        worst.max((f64::from(x) - f64::from(y)).abs() / scale)
    })
}

#[derive(Deserialize)]
struct AdamWGolden {
    snapshots: Vec<usize>,
    tensors: Vec<String>,
    n_steps: usize,
    runs: BTreeMap<String, AdamWRun>,
}

#[derive(Deserialize)]
struct AdamWRun {
    lr: Vec<f64>,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    max_norm: Option<f64>,
    grad_norm: Vec<f64>,
}

/// One parameter on its way through a run.
struct Replay<'a> {
    name: &'a str,
    weight: Tensor<1>,
    /// The gradients of all steps.
    grads: &'a [f32],
    length: usize,
    /// What the first moment would be if all gradients had one sign: the scale of its rounding.
    magnitude: Vec<f64>,
}

impl Replay<'_> {
    fn grad(&self, step: usize) -> Tensor<1> {
        tensor(&self.grads[(step - 1) * self.length..step * self.length])
    }

    fn update(&mut self, optimizer: &mut AdamW, step: usize, beta1: f64, options: &UpdateOptions) {
        let grad = self.grad(step);
        for (magnitude, g) in self.magnitude.iter_mut().zip(&self.grads[(step - 1) * self.length..])
        {
            let g = (f64::from(*g) * options.grad_scale).abs();
            *magnitude = beta1 * *magnitude + (1.0 - beta1) * g;
        }
        let weight = self.weight.clone();
        self.weight = optimizer.update(self.name, weight, grad, options).unwrap();
    }

    /// The largest differences of weight, first and second moment from torch's, relative to the
    /// value for weight and second moment and to its magnitude for the first.
    fn differences<'d>(
        &self,
        optimizer: &AdamW,
        step: usize,
        expected: impl Fn(&str) -> &'d [f32],
    ) -> [f64; 3] {
        let state = optimizer.state(self.name).unwrap();
        assert_eq!(state.step, step as u64);
        let [(_, exp_avg), (_, exp_avg_sq)] = state.tensors.try_into().unwrap();
        let relative = |expected: &[f32], least: f64| -> Vec<f64> {
            expected.iter().map(|y| f64::from(*y).abs().max(least)).collect()
        };
        let (weight_scale, magnitude) = (
            relative(expected("weight"), 1e-3),
            self.magnitude.iter().map(|m| m.max(1e-38)).collect::<Vec<_>>(),
        );
        let exp_avg_sq_scale = relative(expected("exp_avg_sq"), 1e-38);
        [
            largest_difference(self.weight.clone(), expected("weight"), &weight_scale),
            largest_difference(exp_avg, expected("exp_avg"), &magnitude),
            largest_difference(exp_avg_sq, expected("exp_avg_sq"), &exp_avg_sq_scale),
        ]
    }
}

/// Largest differences allowed for weight, first and second moment, as [`Replay::differences`]
/// measures them. torch fuses multiplications with additions and sums the norm in f32, we do not.
const TOLERANCE: [f64; 3] = [5e-7, 6e-7, 8e-7];

#[test]
fn adamw_follows_torch_for_50_steps() {
    let golden: AdamWGolden = json("adamw.json");
    let data = tensors("adamw.safetensors");
    for (run_name, run) in &golden.runs {
        let AdamWRun { betas, eps, weight_decay, .. } = *run;
        let mut optimizer = AdamW::new(&AdamWConfig { betas, eps, weight_decay }).unwrap();
        let replay = |name| {
            let weight: &Vec<f32> = &data[&format!("weight.{name}")];
            let (grads, length) = (data[&format!("grad.{name}")].as_slice(), weight.len());
            let magnitude = vec![0.0; length];
            Replay { name, weight: tensor(weight), grads, length, magnitude }
        };
        let mut replays: Vec<Replay> = golden.tensors.iter().map(|name| replay(name)).collect();
        let mut worst = [0.0_f64; 3];
        for step in 1..=golden.n_steps {
            let grad_scale = run.max_norm.map_or(1.0, |max_norm| {
                let grads: Vec<Tensor<1>> = replays.iter().map(|r| r.grad(step)).collect();
                let norm = global_norm(&grads).unwrap().finite().unwrap();
                let expected = run.grad_norm[step - 1];
                assert!((norm - expected).abs() <= 3e-7 * expected, "norm {norm}, {expected}");
                clip_coefficient(norm, max_norm)
            });
            let options = UpdateOptions { lr: run.lr[step - 1], weight_decay, grad_scale };
            for replay in &mut replays {
                replay.update(&mut optimizer, step, betas[0], &options);
                if !golden.snapshots.contains(&step) {
                    continue;
                }
                let key = format!("{run_name}.{step}.{}", replay.name);
                let expected = |part: &str| data[&format!("{key}.{part}")].as_slice();
                let differences = replay.differences(&optimizer, step, expected);
                for (i, difference) in differences.into_iter().enumerate() {
                    assert!(difference <= TOLERANCE[i], "{key}: {differences:?}");
                    worst[i] = worst[i].max(difference);
                }
            }
        }
        println!("{run_name}: differences of weight, exp_avg, exp_avg_sq: {worst:?}");
    }
}

#[derive(Deserialize)]
struct ClipCase {
    name: String,
    n_tensors: usize,
    max_norm: f64,
    total: f64,
    coefficient: f64,
}

#[test]
fn clipping_agrees_with_torch() {
    let data = tensors("clip.safetensors");
    let cases: Vec<ClipCase> = json("clip.json");
    assert_eq!(cases.len(), 21);
    for case in cases {
        let grads: Vec<Tensor<1>> =
            (0..case.n_tensors).map(|i| tensor(&data[&format!("{}.{i}", case.name)])).collect();
        let norm = global_norm(&grads).unwrap().finite().unwrap();
        let difference = (norm - case.total).abs();
        println!("{} {}: {norm:e}, torch {:e}", case.name, case.max_norm, case.total);
        assert!(
            difference <= 3e-7 * case.total,
            "{}: norm {norm}, torch {}",
            case.name,
            case.total
        );
        // As f32, which torch computes in: a JSON reader may miss the last bit of an f64.
        let coefficient = clip_coefficient(case.total, case.max_norm) as f32;
        assert_eq!(coefficient, case.coefficient as f32, "{}", case.name);
    }
}

#[derive(Deserialize)]
struct GroupCase {
    model: String,
    decay_norm_and_bias: bool,
    decay_embeddings: bool,
    params: Vec<(String, ParamKind)>,
    groups: Vec<Group>,
    core_params: Option<Vec<(String, ParamKind)>>,
    core_groups: Option<Vec<Vec<String>>>,
}

#[derive(Deserialize)]
struct Group {
    weight_decay: f64,
    paths: Vec<String>,
}

#[test]
fn parameters_fall_into_the_groups_of_the_reference() {
    let cases: Vec<GroupCase> = json("groups.json");
    assert_eq!(cases.len(), 16);
    for case in cases {
        let GroupCase { model, decay_norm_and_bias, decay_embeddings, .. } = &case;
        let what = format!("{model} {decay_norm_and_bias} {decay_embeddings}");
        let rules = GroupRules {
            decay_norm_and_bias: *decay_norm_and_bias,
            decay_embeddings: *decay_embeddings,
        };
        // The original names: the same groups in the same order, parameter by parameter.
        let found = ParamGroups::new(case.params, rules, 0.1).unwrap();
        assert_eq!(found.groups().len(), case.groups.len(), "{what}");
        for (i, (found_group, expected)) in found.groups().iter().zip(&case.groups).enumerate() {
            assert_eq!(found_group.paths, expected.paths, "{what}");
            assert_eq!(found_group.weight_decay, expected.weight_decay, "{what}");
            for path in &expected.paths {
                assert_eq!(found.group_of(path), Some(i), "{what}: {path}");
            }
        }
        // OLMo-core's names, which are this project's: the same groups in their own order.
        if let (Some(params), Some(expected)) = (case.core_params, case.core_groups) {
            let found = ParamGroups::new(params, rules, 0.1).unwrap();
            let paths: Vec<_> = found.groups().iter().map(|group| group.paths.clone()).collect();
            assert_eq!(paths, expected, "{what}");
        }
    }
}

#[derive(Deserialize)]
struct ScheduleGolden {
    cases: Vec<ScheduleCase>,
    grad_clip: GradClip,
}

#[derive(Deserialize)]
struct ScheduleCase {
    schedule: Schedule,
    initial_lr: f64,
    max_steps: u64,
    n_steps: Option<u64>,
    steps: Option<Vec<u64>>,
    rates: Vec<f64>,
}

#[derive(Deserialize)]
struct GradClip {
    steps: u64,
    factor: f64,
    max_norm: f64,
    limits: Vec<f64>,
}

#[test]
fn schedules_agree_at_every_step() {
    let cases = json::<ScheduleGolden>("schedules.json").cases;
    assert_eq!(cases.len(), 33);
    assert_rates_agree(cases);
}

#[test]
fn the_schedules_of_olmo_core_agree_at_every_step() {
    let cases: Vec<ScheduleCase> = json("core_schedules.json");
    assert_eq!(cases.len(), 30);
    assert_rates_agree(cases);
}

fn assert_rates_agree(cases: Vec<ScheduleCase>) {
    for case in cases {
        case.schedule.validate(case.initial_lr).unwrap();
        let steps = case.steps.unwrap_or_else(|| (0..case.n_steps.unwrap()).collect());
        assert_eq!(steps.len(), case.rates.len());
        for (step, expected) in steps.into_iter().zip(case.rates) {
            let rate = case.schedule.at(case.initial_lr, step, case.max_steps);
            let schedule = &case.schedule;
            assert!(
                (rate - expected).abs() <= 1e-12 * expected,
                "step {step} of {schedule:?}: {rate:e}, expected {expected:e}"
            );
        }
    }
}

#[test]
fn the_norm_limit_warms_up() {
    let GradClip { steps, factor, max_norm, limits } =
        json::<ScheduleGolden>("schedules.json").grad_clip;
    let limit = GradNormLimit { max_norm, warmup_steps: Some(steps), warmup_factor: Some(factor) };
    limit.validate().unwrap();
    for (step, expected) in (0..).zip(limits) {
        assert_eq!(limit.at(step), expected, "step {step}");
    }
}

#[derive(serde::Deserialize)]
struct DurationCase {
    tokens: u64,
    step: u64,
    seen: u64,
    batch: usize,
    olmo: u64,
    core: u64,
}

#[test]
fn a_length_in_tokens_ends_with_the_step_of_both_trainers_whatever_the_batch_was_before() {
    let cases: Vec<DurationCase> = json("durations.json");
    for DurationCase { tokens, step, seen, batch, olmo, core } in cases {
        let found = step + BatchPlan::new(batch, 1, None).steps_between(seen, tokens);
        assert_eq!((found, found), (olmo, core), "{tokens} tokens after step {step}");
    }
}
