//! How long the shuffle of one epoch takes.
//!
//! Run with `cargo bench -p olmo-data --bench shuffle`. NumPy's own time for the same work:
//!
//! ```text
//! python -m timeit -s "import numpy as np; r = np.random.Generator(np.random.PCG64(6198)); \
//!     a = np.arange(10_000_000, dtype=np.uint32)" "r.shuffle(a)"
//! ```

use divan::Bencher;
use olmo_data::rng::Generator;

fn main() {
    divan::main();
}

#[divan::bench(args = [1_000_000, 10_000_000], sample_count = 5, sample_size = 1)]
fn shuffle(bencher: Bencher<'_, '_>, n: u32) {
    let indices: Vec<u32> = (0..n).collect();
    bencher.with_inputs(|| (Generator::new(6198), indices.clone())).bench_values(
        |(mut generator, mut indices)| {
            generator.shuffle(&mut indices);
            indices
        },
    );
}
