//! What opening, loading and converting cost, counted in bytes and not in seconds.
//!
//! One test, alone in its process: both counts are of the whole process.

#![cfg(target_os = "linux")]
#![allow(
    clippy::print_stdout,
    reason = "the measured figure is wanted where the test fails or is asked for"
)]

mod allocations;
#[path = "../examples/load_cost/sparse.rs"]
mod sparse;

use std::fs;
use std::ops::ControlFlow;

use burn::tensor::Device;
use olmo_hub::{Conversion, Dtype, Form, ModelFolder, convert};
use olmo_model::{ModelConfig, Quantization, Transformer, presets};

use allocations::{in_use, peak_of};

#[test]
fn opening_reads_headers_loading_holds_one_copy_and_converting_none() {
    // Each thread has a buffer: as many on every machine.
    rayon::ThreadPoolBuilder::new().num_threads(4).build_global().expect("nothing ran before");
    opening_reads_headers();
    loading_holds_one_copy();
    converting_holds_no_tensor();
}

fn opening_reads_headers() {
    // OLMoE as released: 3219 tensors, 13.8 GB. Opening reads the header and the configuration,
    // once, and nothing of the weights.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (weights, header) =
        sparse::write(&presets::olmoe_1b_7b(), Dtype::Bf16, dir.path()).expect("sparse");
    assert!(weights > 13_000_000_000 && header > 200_000, "{weights} {header}");
    let config = fs::metadata(dir.path().join("config.json")).expect("written").len();
    let before = bytes_read();
    let folder = ModelFolder::open(dir.path()).expect("complete");
    let read = bytes_read() - before;
    assert!(read >= header, "{read} of a header of {header}: the count does not count");
    assert!(read <= header + config + 16_384, "{read} bytes read, for a header of {header}");
    assert_eq!(folder.model_config().parameters().len(), 3219);
    let held = in_use();
    assert!(held < 16 << 20, "{held} bytes in use after opening");
}

fn loading_holds_one_copy() {
    // A smaller model: at no time more than a tenth beyond its own weights, in every form.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = presets::small_olmo2(512, 6, 8, 60_000);
    let tied = ModelConfig { weight_tying: true, ..model.clone() };
    let flex = Device::flex();
    for (model, dtype) in [(&model, Dtype::Bf16), (&tied, Dtype::F32)] {
        let (weights, _) = sparse::write(model, dtype, dir.path()).expect("sparse");
        let folder = ModelFolder::open(dir.path()).expect("complete");
        let narrowed = weights / (dtype.size() / 2) as u64;
        let elements = weights / dtype.size() as u64;
        let quantized = |to: Quantization| to.bytes(elements);
        let (q8, q4) = (Quantization::Q8, Quantization::Q4);
        let check = |form: &str, weights: u64, load: &dyn Fn() -> Loaded| {
            let (loaded, peak) = peak_of(load);
            let peak = peak as f64 / weights as f64;
            println!("{dtype:?} {form}: peak {peak:.3} of the weights");
            assert!((1.0..=1.1).contains(&peak), "peak {peak} of the weights, {dtype:?} {form}");
            drop(loaded.expect("finite"));
        };
        let (bf16, f32) = (Some(Dtype::Bf16), Some(Dtype::F32));
        check("as it is", weights, &|| folder.load(&flex, None));
        check("in bf16", narrowed, &|| folder.load(&flex, bf16));
        check("to run", weights, &|| folder.load_to_run(&flex, None));
        // Matrices stay as they are; an embedding that is not the output projection is widened.
        let looked_up = if model.weight_tying { 0 } else { 2 * (60_000 * 512) };
        let looked_up = if dtype == Dtype::Bf16 { looked_up } else { 0 };
        check("to run in f32", weights + looked_up, &|| folder.load_to_run(&flex, f32));
        check("to run in bf16", narrowed, &|| folder.load_to_run(&flex, bf16));
        check("in 8 bits", quantized(q8), &|| folder.load_quantized(&flex, q8));
        check("in 4 bits", quantized(q4), &|| folder.load_quantized(&flex, q4));
    }
}

/// Every form made from the one before, widened and narrowed on the way.
fn converting_holds_no_tensor() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let first = scratch.path().join("first");
    fs::create_dir(&first).expect("creates");
    let model = presets::small_olmo2(512, 2, 8, 10_000);
    let (weights, _) = sparse::write(&model, Dtype::Bf16, &first).expect("sparse");
    let to = |form, dtype, max_shard_bytes| Conversion { form, dtype, max_shard_bytes };
    let (mut from, all) = (first, u64::MAX);
    for (name, conversion) in [
        ("model.pt", to(Form::Original, None, all)),
        ("shards in f32", to(Form::HuggingFace, Some(Dtype::F32), weights / 3)),
        ("pickled names", to(Form::OriginalSafetensors, None, all)),
        ("hf_olmo in f16", to(Form::HfOlmo, Some(Dtype::F16), all)),
        ("OLMo-core's names in bf16", to(Form::Core, Some(Dtype::Bf16), all)),
        ("one file", to(Form::HuggingFace, None, all)),
    ] {
        let out = scratch.path().join("to ".to_owned() + name);
        let (converted, peak) = peak_of(|| {
            convert(&ModelFolder::open(&from)?, &conversion, &out, |_| ControlFlow::Continue(()))
        });
        converted.expect("converts");
        println!("to {name}: peak {peak} bytes for {weights}");
        assert!(peak < 4 << 20, "{peak} bytes in use for {name}, of a model of {weights}");
        fs::remove_dir_all(&from).expect("removes");
        from = out;
    }
    let last = ModelFolder::open(&from).expect("complete");
    assert_eq!((last.layout(), last.stored_dtype()), (Form::HuggingFace.layout(), Dtype::Bf16));
}

type Loaded = olmo_hub::Result<Transformer>;

/// Bytes that the process has read.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("linux");
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|n| n.trim().parse().ok()).expect("a number")
}
