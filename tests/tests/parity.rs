//! Logits of small models that `transformers` saved, in every form a folder can have.

use std::fs;

use burn::tensor::Device;
use olmo_hub::{Dtype, ModelFolder};
use olmo_model::{Labels, Sampling, token_tensor, walk};
use olmo_tests::{Golden, devices, golden, hf_name, relative_difference};

/// Over the largest logit. The project's promise is 1e-5.
const LOGITS: f64 = 2e-6;

/// Over the largest gradient of each parameter.
const GRADIENTS: f64 = 4e-6;

/// Other devices than flex are checked on these: between them they use every kernel.
const ON_EVERY_DEVICE: [&str; 2] = ["olmo-gqa-clip", "olmo2-gqa"];

fn folders() -> Vec<String> {
    let entries = fs::read_dir(golden("hf")).expect("golden folders");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("plain names");
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("listed"))).collect();
    names.sort();
    assert!(names.len() >= 11, "{names:?}");
    names
}

/// Every device with the folders that are checked on it.
fn cases() -> impl Iterator<Item = (&'static str, Device, String)> {
    devices().into_iter().flat_map(|(device_name, device)| {
        let checked =
            |name: &String| device_name == "flex" || ON_EVERY_DEVICE.contains(&name.as_str());
        let names = folders().into_iter().filter(checked).collect::<Vec<_>>();
        names.into_iter().map(move |name| (device_name, device.clone(), name))
    })
}

#[test]
fn every_folder_gives_the_logits_of_transformers() {
    for (device_name, device, name) in cases() {
        let vectors = Golden::open(&format!("hf/{name}/golden.safetensors"));
        let folder = ModelFolder::open(golden(&format!("hf/{name}"))).expect(&name);
        let model = folder.load(&device, Some(Dtype::F32)).expect(&name);
        let [batch, seq] = vectors.shape("tokens")[..] else { panic!("[batch, seq]") };
        let tokens = token_tensor(&vectors.tokens("tokens"), [batch, seq], &device);
        let logits = model.forward(tokens, None).expect("no cache");
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let difference = relative_difference(&logits, &vectors.f32("logits"));
        println!("{device_name}: {name}: logits differ by {difference:e}");
        assert!(difference < LOGITS, "{device_name}: {name}: logits differ by {difference:e}");
    }
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    for (device_name, device, name) in cases() {
        let vectors = Golden::open(&format!("hf/{name}/golden.safetensors"));
        let folder = ModelFolder::open(golden(&format!("hf/{name}"))).expect(&name);
        let model = folder.load(&device, Some(Dtype::F32)).expect(&name);
        let seq = vectors.shape("tokens")[1];
        let n_new = vectors.shape("greedy")[1];
        let (tokens, greedy) = (vectors.tokens("tokens"), vectors.tokens("greedy"));
        for (prompt, expected) in tokens.chunks(seq).zip(greedy.chunks(n_new)) {
            let generator = model.generate(prompt, Sampling::greedy()).expect("a sound prompt");
            let found: Result<Vec<u32>, _> = generator.take(n_new).collect();
            assert_eq!(found.expect("finite logits"), expected, "{device_name}: {name}");
        }
    }
}

#[test]
fn losses_and_gradients_are_those_of_ai2_olmo() {
    for (device_name, device) in devices() {
        for name in ["olmo", "olmo-tied-gqa-clip", "olmo2", "olmo2-gqa"] {
            let worst = gradient_difference(device_name, &device, name);
            println!("{device_name}: {name}: gradients differ by {worst:e}");
        }
    }
}

/// The largest difference of any parameter's gradient; the loss is compared on the way.
fn gradient_difference(device_name: &str, device: &Device, name: &str) -> f64 {
    let vectors = Golden::open(&format!("olmo/{name}.safetensors"));
    let family = vectors.config().family;
    let model = vectors.model("", device);
    let [batch, seq] = vectors.shape("tokens")[..] else { panic!("[batch, seq]") };
    let tokens = vectors.tokens("tokens");
    let labels = Labels::next_token(&tokens, seq);
    let ids = token_tensor(&tokens, [batch, seq], device);
    let leaves = walk::leaves(&model, burn::tensor::FloatDType::F32);
    let sums = leaves.loss(ids, &labels, 0.0);
    let scale = 1.0 / labels.count() as f64;
    let mut graph = (sums.objective() * scale).backward();
    let (loss, expected) = (sums.into_values().cross_entropy * scale, vectors.floats("loss")[0]);
    assert!((loss / expected - 1.0).abs() < 1e-6, "{device_name}: {name}: {loss} for {expected}");
    let (mut n_compared, mut worst) = (0, 0.0_f64);
    walk::take_gradients(&leaves, &mut graph, |path, gradient| {
        let found: Vec<f32> = gradient.into_data().iter::<f32>().collect();
        let expected = vectors.f32(&format!("grad.{}", hf_name(family, path)));
        let difference = relative_difference(&found, &expected);
        assert!(difference < GRADIENTS, "{device_name}: {name}: {path} differs by {difference:e}");
        worst = worst.max(difference);
        n_compared += 1;
    });
    assert_eq!(n_compared, model.config().parameters().len(), "{name}");
    worst
}
