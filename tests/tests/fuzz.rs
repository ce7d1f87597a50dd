//! Files of every format, damaged at random: each is read or refused, and nothing panics.
//!
//! The corpus is what the reference packages wrote, in `tests/golden`. `OLMO_FUZZ_SECONDS` says how
//! long each target is tried; CI gives each ten. A failure names the seed that makes it again:
//! `OLMO_FUZZ_SEED`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use olmo_hub::{HfConfig, ModelFolder, TensorFile, verify};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};

/// Cases of each target where no time is asked for.
const CASES: u32 = 400;

fn golden(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(relative)
}

/// Damages the bytes of a corpus again and again and lets `target` read them.
fn fuzz(name: &str, corpus: &[&str], target: impl Fn(&[u8])) {
    let corpus: Vec<Vec<u8>> =
        corpus.iter().filter_map(|path| fs::read(golden(path)).ok()).collect();
    if corpus.is_empty() {
        println!("skipped: {name}, for tests/golden is not there");
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("OLMO_FUZZ_SECONDS").map(Duration::from_secs);
    let start = Instant::now();
    let first = number("OLMO_FUZZ_SEED").unwrap_or(0);
    let mut seed = first;
    loop {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let bytes = damaged(&corpus, &mut random);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(&bytes)));
        assert!(outcome.is_ok(), "{name} panicked, with OLMO_FUZZ_SEED={seed}");
        seed += 1;
        let is_over = match seconds {
            Some(seconds) => start.elapsed() > seconds,
            None => seed - first == u64::from(CASES),
        };
        if is_over {
            println!("{name}: {} cases", seed - first);
            return;
        }
    }
}

/// A file of the corpus with one to eight changes, near its ends more often than elsewhere.
fn damaged(corpus: &[Vec<u8>], random: &mut Pcg64Mcg) -> Vec<u8> {
    const VALUES: [u8; 8] = [0, 1, 0x7F, 0x80, 0xFF, b'"', b'9', b'{'];
    let mut below = |n: usize| if n == 0 { 0 } else { random.next_u32() as usize % n };
    let mut bytes = corpus[below(corpus.len())].clone();
    for _ in 0..=below(8) {
        let length = bytes.len();
        let at = match below(3) {
            0 => below(length.min(4096)),
            1 => length - below(length.min(2048)).min(length),
            _ => below(length),
        };
        let at = at.min(length.saturating_sub(1));
        if length == 0 {
            break;
        }
        let end = (at + 1 + below(16)).min(length);
        match below(6) {
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = VALUES[below(VALUES.len())],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let other = &corpus[below(corpus.len())];
                let from = below(other.len());
                let part = other[from..(from + 16).min(other.len())].to_vec();
                bytes.splice(at..end, part);
            }
        }
    }
    bytes
}

/// A folder whose other files are sound, and whose file `name` is damaged.
fn in_folder(folder: &str, name: &str) -> (tempfile::TempDir, impl Fn(&[u8]) + use<>) {
    let scratch = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(folder)).into_iter().flatten() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), scratch.path().join(entry.file_name())).unwrap();
    }
    let dir = scratch.path().to_owned();
    let file = dir.join(name);
    let read = move |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        // What can still be opened is read to its end.
        let opened = ModelFolder::open(&dir).is_ok();
        let verified = verify(&dir, |_| ());
        assert!(!opened || verified.unwrap().digest.is_some());
    };
    (scratch, read)
}

#[test]
fn torch_files() {
    let (_scratch, read) = in_folder("original/olmo2-gqa-pt", "model.pt");
    let corpus = ["original/olmo2-gqa-pt/model.pt", "original/olmo2-groups-pt/model.pt"];
    fuzz("torch files", &corpus, read);
}

#[test]
fn safetensors_with_pickled_names() {
    let (_scratch, read) = in_folder("original/olmo2-gqa-safetensors", "model.safetensors");
    fuzz("pickled names", &["original/olmo2-gqa-safetensors/model.safetensors"], read);
}

#[test]
fn safetensors() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.safetensors");
    let corpus =
        ["hf/olmo2-gqa-bf16/model.safetensors", "original/olmo-tied-pt/golden.safetensors"];
    fuzz("safetensors", &corpus, |bytes| {
        fs::write(&path, bytes).unwrap();
        let Ok(file) = TensorFile::open(&path) else { return };
        for name in file.names() {
            // Formats that are not of floating point are refused.
            let _ = file.get_f32(name);
        }
    });
}

#[test]
fn indexes() {
    let name = "model.safetensors.index.json";
    let (_scratch, read) = in_folder("hf/olmo2-gqa-sharded", name);
    fuzz("indexes", &["hf/olmo2-gqa-sharded/model.safetensors.index.json"], read);
}

#[test]
fn configurations_of_transformers() {
    let corpus = [
        "hf/olmo2/config.json",
        "hf/olmo-gqa-clip-old-config/config.json",
        "original/olmo-tied-hf-olmo/config.json",
    ];
    fuzz("config.json", &corpus, |bytes| {
        if let Ok(text) = str::from_utf8(bytes) {
            let path = Path::new("config.json");
            if let Ok(config) = HfConfig::parse(text, path) {
                let again = HfConfig::parse(&config.to_json(), path).unwrap();
                assert_eq!(again.model, config.model);
            }
        }
    });
}

#[test]
fn configurations_of_ai2_olmo() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("config.yaml");
    let corpus = ["original/olmo2-gqa-pt/config.yaml", "original/olmo-tied-pt/config.yaml"];
    fuzz("config.yaml", &corpus, |bytes| {
        fs::write(&path, bytes).unwrap();
        let _ = HfConfig::read_yaml(&path);
    });
}
