//! Bytes damaged at random, for readers of files that come from anywhere.

#![allow(clippy::print_stderr, reason = "a target says how often it was tried")]

use std::fs;
use std::time::{Duration, Instant};

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};

use crate::root;

/// Cases of each target where no time is asked for.
const CASES: u32 = 400;

/// Damages files, named from this package's folder, again and again and lets `target` read them.
///
/// # Panics
///
/// Panics where `target` does, with the seed that makes it again.
pub fn fuzz(name: &str, corpus: &[&str], target: impl Fn(&[u8])) {
    let read = |path: &&str| {
        let path = root().join("tests").join(path);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let corpus: Vec<Vec<u8>> = corpus.iter().map(read).collect();
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
            eprintln!("{name}: {} cases", seed - first);
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
