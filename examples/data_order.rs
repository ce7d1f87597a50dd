//! Which instances are in which batch, and where on disk they lie.
//!
//! The order is that of OLMo's trainer, bit for bit, and the same for any number of ranks.
//!
//! Run: `cargo run --example data_order`

use std::sync::Arc;

use olmo_data::{DataLoader, DataLoaderConfig, LoaderState, TokenDataset, TokenDtype};

const SEQ: usize = 8;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Token files are bare integers; these two hold 20 and 12 instances, and a rest that is cut off.
    let mut paths = Vec::new();
    for (name, n_tokens) in [("a.npy", 20 * SEQ + 3), ("b.npy", 12 * SEQ + 5)] {
        let tokens: Vec<u8> = (0..n_tokens).flat_map(|i| (i as u16).to_le_bytes()).collect();
        paths.push(folder.path().join(name));
        std::fs::write(folder.path().join(name), tokens)?;
    }
    let dataset = Arc::new(TokenDataset::open(&paths, TokenDtype::Uint16, SEQ)?);
    println!("{} instances of {SEQ} tokens", dataset.len());

    let whole = DataLoaderConfig { global_batch_size: 4, ..DataLoaderConfig::default() };
    let mut loader = DataLoader::new(dataset.clone(), whole, LoaderState::default())?;
    for batch in 1..=3 {
        println!("batch {batch}: {:?}", loader.next_batch()?.indices);
    }

    // Rank 1 of 2 sees every second instance of the same batches, from wherever it begins.
    let rank = DataLoaderConfig { world_size: 2, rank: 1, ..whole };
    let mut second = DataLoader::new(dataset.clone(), rank, loader.state())?;
    let batch = second.next_batch()?;
    println!("\nbatch 4 as rank 1 of 2 sees it, resumed from the state of one rank:");
    for (&index, row) in batch.indices.iter().zip(batch.rows()) {
        let place = dataset.locate(index as usize)?;
        let file = place.path.file_name().unwrap_or_default().display();
        println!("  instance {index:>2}: {file} at byte {:>3}, {row:?}", place.byte_offset);
    }
    println!("batch 4 of all ranks:  {:?}", loader.next_batch()?.indices);
    Ok(())
}
