//! How fast the loader gives batches of four million tokens, their files in the page cache.
//!
//! Run with `cargo bench -p olmo-data --bench loader`. The bytes counted are those of the files.

use std::sync::Arc;

use divan::Bencher;
use divan::counter::BytesCount;
use olmo_data::{DataLoader, DataLoaderConfig, LoaderState, TokenDataset, TokenDtype};

const SEQ_LEN: usize = 4096;
const BATCH: usize = 1024;
const N_BATCHES: usize = 16;

fn main() {
    divan::main();
}

#[divan::bench(args = [TokenDtype::Uint16, TokenDtype::Uint32], sample_count = 10, sample_size = 1)]
fn batches_of_4m_tokens(bencher: Bencher<'_, '_>, dtype: TokenDtype) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.npy");
    let n_bytes = SEQ_LEN * BATCH * N_BATCHES * dtype.item_bytes();
    let bytes: Vec<u8> = (0..n_bytes).map(|i| (i % 251) as u8).collect();
    std::fs::write(&path, bytes).expect("written");
    let dataset = Arc::new(TokenDataset::open(&[path], dtype, SEQ_LEN).expect("a dataset"));
    let config = DataLoaderConfig { global_batch_size: BATCH, ..Default::default() };
    let batch_bytes = SEQ_LEN * BATCH * dtype.item_bytes();
    bencher
        .counter(BytesCount::new(batch_bytes * N_BATCHES))
        .with_inputs(|| {
            DataLoader::new(Arc::clone(&dataset), config, LoaderState::default()).expect("a loader")
        })
        .bench_local_values(|mut loader| {
            for _ in 0..N_BATCHES {
                divan::black_box(loader.next_batch().expect("a batch"));
            }
        });
}
