//! How long the shuffle of one epoch takes, and finding one batch of it without making it.
//!
//! Run with `cargo bench -p olmo-data --bench shuffle`. NumPy's own time for the same work:
//!
//! ```text
//! python -m timeit -s "import numpy as np; r = np.random.Generator(np.random.PCG64(6198)); \
//!     a = np.arange(10_000_000, dtype=np.uint32)" "r.shuffle(a)"
//! ```

use divan::Bencher;
use olmo_data::rng::{Generator, ShuffledRange};

fn main() {
    divan::main();
}

#[divan::bench(args = [1_000_000, 10_000_000, 100_000_000], sample_count = 5, sample_size = 1)]
fn shuffle(bencher: Bencher<'_, '_>, n: u32) {
    let indices: Vec<u32> = (0..n).collect();
    bencher.with_inputs(|| (Generator::new(6198), indices.clone())).bench_values(
        |(mut generator, mut indices)| {
            generator.shuffle_indices(&mut indices);
            indices
        },
    );
}

#[divan::bench(args = [10_000_000, 100_000_000], sample_count = 3, sample_size = 1)]
fn one_batch(n: u32) -> Vec<u32> {
    let positions: Vec<u32> = (n - 2048..n).collect();
    ShuffledRange::new(6198, n).values(&positions)
}

#[divan::bench(args = [10_000_000, 100_000_000], sample_count = 3, sample_size = 1)]
fn one_instance(n: u32) -> Vec<u32> {
    ShuffledRange::new(6198, n).positions(&[n / 2])
}
