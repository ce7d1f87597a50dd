//! Tests that need no reference; see tests/golden.rs for those against torch.

use super::*;
use crate::fixtures::tensor;
use crate::flex::HostTensor;

/// Longer than the chunks of the pass in place, and not a multiple of them or of a vector.
const LENGTH: usize = 100_003;

/// Numbers of both signs and of magnitudes from 1e-12 to 1e4, with zeros among them.
fn values(seed: u64, length: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut value = || {
        let (sign, exponent) = (next() - 0.5, (next() * 16.0) as i32 - 12);
        if next() < 0.05 { 0.0 } else { sign * 10_f32.powi(exponent) }
    };
    (0..length).map(|_| value()).collect()
}

fn bits(tensor: Tensor<1>) -> Vec<u32> {
    HostTensor::new(tensor).as_slice().iter().map(|x| x.to_bits()).collect()
}

fn options() -> UpdateOptions {
    UpdateOptions { lr: 3e-4, weight_decay: 0.1, grad_scale: 1.0 }
}

fn adamw() -> AdamW {
    AdamW::new(&AdamWConfig::default()).unwrap()
}

#[test]
fn one_pass_in_place_equals_the_tensor_operations_to_the_bit() {
    for betas in [[0.9, 0.95], [0.5, 0.999], [0.0, 0.0]] {
        for length in [1, 17, LENGTH] {
            let start = || (tensor(&values(1, length)), tensor(&vec![0.0; length]));
            let ((mut w, mut m), (mut w2, mut m2)) = (start(), start());
            let (mut v, mut v2) = (m.clone(), m2.clone());
            for step in 1..=4 {
                let grad = values(1 + step, length);
                let options = UpdateOptions { grad_scale: 0.37, ..options() };
                let scalars = Scalars::new(betas, 1e-8, step, &options);
                (w, m, v) = fused::update(w, m, v, tensor(&grad), &scalars);
                (w2, m2, v2) = composed::update(w2, m2, v2, tensor(&grad), &scalars);
            }
            assert_eq!(bits(w), bits(w2), "weight, length {length}, betas {betas:?}");
            assert_eq!(bits(m), bits(m2), "exp_avg, length {length}, betas {betas:?}");
            assert_eq!(bits(v), bits(v2), "exp_avg_sq, length {length}, betas {betas:?}");
        }
    }
}

#[test]
fn an_update_runs_in_place() {
    let address = |tensor: Tensor<1>| {
        let host = HostTensor::new(tensor);
        let address = host.as_slice().as_ptr();
        (address, host.into_tensor())
    };
    let mut optimizer = adamw();
    let (before, weight) = address(tensor(&values(1, LENGTH)));
    let weight = optimizer.update("w", weight, tensor(&values(2, LENGTH)), &options()).unwrap();
    let (after, weight) = address(weight);
    assert_eq!(before, after, "the weight was copied");

    let state_addresses = |optimizer: &AdamW| -> Vec<*const f32> {
        let tensors = optimizer.state("w").unwrap().tensors;
        tensors.into_iter().map(|(_, tensor)| address(tensor).0).collect()
    };
    let before = state_addresses(&optimizer);
    optimizer.update("w", weight, tensor(&values(3, LENGTH)), &options()).unwrap();
    assert_eq!(before, state_addresses(&optimizer), "the state was copied");
}

#[test]
fn handles_held_elsewhere_keep_their_values() {
    let mut optimizer = adamw();
    let (weight, grad) = (tensor(&[1.0, 2.0]), tensor(&[3.0, 4.0]));
    let new = optimizer.update("w", weight.clone(), grad.clone(), &options()).unwrap();
    let state = optimizer.state("w").unwrap();
    let exp_avg = bits(state.tensors[0].1.clone());
    optimizer.update("w", new, grad.clone(), &options()).unwrap();

    assert_eq!(bits(weight), bits(tensor(&[1.0, 2.0])));
    assert_eq!(bits(grad), bits(tensor(&[3.0, 4.0])));
    assert_eq!(bits(state.tensors[0].1.clone()), exp_avg);
    assert_ne!(bits(optimizer.state("w").unwrap().tensors[0].1.clone()), exp_avg);
}

#[test]
fn scaling_in_the_update_equals_scaling_before_it() {
    let (grad, scale) = (values(2, LENGTH), 0.123_456_f32);
    let scaled: Vec<f32> = grad.iter().map(|g| g * scale).collect();
    let weight = || tensor(&values(1, LENGTH));
    let with = UpdateOptions { grad_scale: f64::from(scale), ..options() };
    let a = adamw().update("w", weight(), tensor(&grad), &with).unwrap();
    let b = adamw().update("w", weight(), tensor(&scaled), &options()).unwrap();
    assert_eq!(bits(a), bits(b));
}

/// Weights, step counts and state of a run, to the bit.
type RunBits = (Vec<u32>, Vec<(String, u64)>, Vec<Vec<u32>>);

/// Five steps, a checkpoint in between or not.
fn run(restart_after: Option<u64>) -> RunBits {
    let mut optimizer = adamw();
    let mut weights = [("a.weight", 7), ("b.c.weight", 40)]
        .map(|(path, length)| (path, tensor(&values(length as u64, length))));
    for step in 1..=5 {
        for (path, weight) in &mut weights {
            let grad = tensor(&values(step, weight.dims()[0]));
            // A parameter need not have a gradient at every step.
            if step != 3 || *path == "a.weight" {
                *weight = optimizer.update(path, weight.clone(), grad, &options()).unwrap();
            }
        }
        if restart_after == Some(step) {
            let (mut tensors, steps) = (optimizer.named_tensors(), optimizer.steps());
            tensors.reverse();
            optimizer = adamw();
            optimizer.load_named(tensors, steps).unwrap();
        }
    }
    let tensors = optimizer.named_tensors().into_iter().map(|(_, t)| bits(t)).collect();
    let weights = weights.into_iter().flat_map(|(_, w)| bits(w)).collect();
    (weights, optimizer.steps(), tensors)
}

#[test]
fn a_restart_changes_no_bit() {
    let straight = run(None);
    assert_eq!(straight.1, [("a.weight".to_owned(), 5), ("b.c.weight".to_owned(), 4)]);
    for step in 1..=5 {
        assert_eq!(run(Some(step)), straight, "restarted after step {step}");
    }
}

#[test]
fn state_is_named_by_path() {
    let mut optimizer = adamw();
    assert!(optimizer.state("w.weight").is_none());
    optimizer.update("w.weight", tensor(&[1.0]), tensor(&[1.0]), &options()).unwrap();
    let names: Vec<String> = optimizer.named_tensors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["w.weight.exp_avg", "w.weight.exp_avg_sq"]);
    assert_eq!(optimizer.paths(), ["w.weight"]);
}

#[test]
fn an_empty_shard_takes_part() {
    let mut optimizer = adamw();
    let empty = || Tensor::zeros([0], &Device::flex());
    let weight = optimizer.update("w", empty(), empty(), &options()).unwrap();
    assert_eq!(weight.dims(), [0]);
    assert_eq!(optimizer.step("w"), Some(1));
}

#[test]
fn a_tracked_weight_is_updated_without_autodiff() {
    let device = Device::flex().autodiff();
    let weight = Tensor::<1>::from_floats([1.0, 2.0], &device).require_grad();
    let mut grads = (weight.clone() * 3.0).sum().backward();
    let grad = weight.grad_remove(&mut grads).unwrap();
    let new = adamw().update("w", weight, grad, &options()).unwrap();
    assert!(!new.is_autodiff());
    let plain = adamw().update("w", tensor(&[1.0, 2.0]), tensor(&[3.0, 3.0]), &options()).unwrap();
    assert_eq!(bits(new), bits(plain));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut optimizer = adamw();
    optimizer.update("w", tensor(&[1.0, 2.0]), tensor(&[3.0, 4.0]), &options()).unwrap();
    let before: Vec<_> = optimizer.named_tensors().into_iter().map(|(_, t)| bits(t)).collect();

    let mut refused = |weight: Tensor<1>, grad: Tensor<1>, options: UpdateOptions| {
        optimizer.update("w", weight, grad, &options).unwrap_err().to_string()
    };
    let (two, three) = (|| tensor(&[1.0, 2.0]), || tensor(&[1.0, 2.0, 3.0]));
    assert_eq!(
        refused(two(), three(), options()),
        "w: grad has 3 elements, expected 2 as in the weight"
    );
    assert_eq!(
        refused(three(), three(), options()),
        "w: exp_avg has 2 elements, expected 3 as in the weight"
    );
    assert_eq!(
        refused(two().cast(DType::BF16), two(), options()),
        "w: weight is bf16, expected f32: cast it before the update"
    );
    let bad = UpdateOptions { lr: -1.0, weight_decay: f64::INFINITY, grad_scale: f64::NAN };
    let message = refused(two(), two(), bad);
    for name in ["lr is -1", "weight_decay is inf", "grad_scale is NaN"] {
        assert!(message.contains(name), "{message}");
    }

    let after: Vec<_> = optimizer.named_tensors().into_iter().map(|(_, t)| bits(t)).collect();
    assert_eq!(before, after);
    assert_eq!(optimizer.step("w"), Some(1));
}

#[test]
fn state_that_does_not_fit_is_refused() {
    let named = |names: &[&str]| -> Vec<(String, Tensor<1>)> {
        names.iter().map(|name| ((*name).to_owned(), tensor(&[1.0]))).collect()
    };
    let mut optimizer = adamw();
    let mut load = |path: &str, tensors| {
        let steps = vec![(path.to_owned(), 1)];
        optimizer.load_named(tensors, steps).unwrap_err().to_string()
    };
    assert_eq!(
        load("w", named(&["w.exp_avg"])),
        "w: state has the tensors [exp_avg], expected [exp_avg, exp_avg_sq]"
    );
    assert_eq!(load("w", named(&["x.exp_avg"])), "x.exp_avg: no step count for \"x\"");
    assert_eq!(load("w", named(&["exp_avg"])), "exp_avg: no step count for \"\"");
    let mut uneven = named(&["w.exp_avg"]);
    uneven.push(("w.exp_avg_sq".to_owned(), tensor(&[1.0, 2.0])));
    assert_eq!(load("w", uneven), "w: exp_avg_sq has 2 elements, expected 1 as in the weight");
    let steps = vec![("w".to_owned(), 1), ("w".to_owned(), 2)];
    let error = adamw().load_named(Vec::new(), steps).unwrap_err();
    assert_eq!(error, Error::DuplicatePath { path: "w".into() });
}

#[test]
fn every_problem_of_a_configuration_is_listed() {
    let config = AdamWConfig { betas: [1.0, -0.1], eps: -1.0, weight_decay: f64::NAN };
    let Err(Error::Invalid { problems, .. }) = AdamW::new(&config).map(|_| ()) else {
        panic!("the configuration is invalid");
    };
    assert_eq!(problems.len(), 4, "{problems:?}");
}

#[test]
fn a_configuration_names_only_what_differs() {
    let config: AdamWConfig = serde_json::from_str(r#"{"eps": 1e-5}"#).unwrap();
    assert_eq!(config, AdamWConfig { eps: 1e-5, ..AdamWConfig::default() });
    assert!(serde_json::from_str::<AdamWConfig>(r#"{"epsilon": 1e-5}"#).is_err());
}
