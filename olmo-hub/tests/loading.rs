//! What opening and loading cost, counted in bytes and not in seconds.
//!
//! One test, alone in its process: both counts are of the whole process.

#![cfg(target_os = "linux")]
#![allow(
    clippy::print_stdout,
    reason = "the measured figure is wanted where the test fails or is asked for"
)]

#[path = "../examples/load_cost/sparse.rs"]
mod sparse;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use olmo_hub::{Dtype, ModelFolder};
use olmo_model::{ModelConfig, Quantization, Transformer, presets};

/// The system's allocator, with the bytes in use and the most there were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count(size: usize) {
    let in_use = IN_USE.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(in_use, Ordering::Relaxed);
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn opening_reads_headers_and_loading_holds_one_copy() {
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
    let held = IN_USE.load(Ordering::Relaxed);
    assert!(held < 16 << 20, "{held} bytes in use after opening");
    drop(folder);

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
            let before = IN_USE.load(Ordering::Relaxed);
            PEAK.store(before, Ordering::Relaxed);
            let loaded = load().expect("finite");
            let peak = (PEAK.load(Ordering::Relaxed) - before) as f64 / weights as f64;
            println!("{dtype:?} {form}: peak {peak:.3} of the weights");
            assert!((1.0..=1.1).contains(&peak), "peak {peak} of the weights, {dtype:?} {form}");
            drop(loaded);
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

type Loaded = olmo_hub::Result<Transformer>;

/// Bytes that the process has read.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("linux");
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|n| n.trim().parse().ok()).expect("a number")
}
