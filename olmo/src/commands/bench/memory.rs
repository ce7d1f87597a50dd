//! What this machine's memory gives, and what this process took of it.

use std::time::Instant;

use rayon::prelude::*;

/// Bytes read to measure with: more than any cache holds.
const READ_BYTES: usize = 512 << 20;

/// The most memory that this process has held.
pub(super) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes a second that all threads together read from memory, the best of three.
pub(super) fn bandwidth() -> f64 {
    let values = vec![1_u64; READ_BYTES / size_of::<u64>()];
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        let sum: u64 = values.par_chunks(1 << 16).map(|part| part.iter().sum::<u64>()).sum();
        std::hint::black_box(sum);
        best = best.min(start.elapsed().as_secs_f64());
    }
    READ_BYTES as f64 / best
}
