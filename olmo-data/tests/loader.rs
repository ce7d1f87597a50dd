//! The loader over real files: resuming, changing the number of ranks, epochs, reading ahead.

use std::path::Path;
use std::sync::Arc;

use olmo_data::{
    Batch, DataLoader, DataLoaderConfig, DataOrder, DataOrderConfig, Error, LoaderState, Tail,
    TokenDataset, TokenDtype,
};
use proptest::prelude::*;

const SEQ_LEN: usize = 4;

/// A dataset whose instance `i` is `[4 i, 4 i + 1, 4 i + 2, 4 i + 3]`.
fn dataset(folder: &Path, n_instances: usize) -> Arc<TokenDataset> {
    let path = folder.join("tokens.npy");
    let tokens = 0..(n_instances * SEQ_LEN) as u16;
    std::fs::write(&path, tokens.flat_map(u16::to_le_bytes).collect::<Vec<_>>())
        .expect("a dataset");
    Arc::new(TokenDataset::open(&[path], TokenDtype::Uint16, SEQ_LEN).expect("a dataset"))
}

fn loader(dataset: &Arc<TokenDataset>, config: DataLoaderConfig, state: LoaderState) -> DataLoader {
    DataLoader::new(Arc::clone(dataset), config, state).expect("a loader")
}

/// The state after some instances of an epoch.
fn state(epoch: u64, n_instances_seen: usize) -> LoaderState {
    LoaderState { epoch, n_instances_seen, n_tokens_seen: (n_instances_seen * SEQ_LEN) as u64 }
}

/// One global batch from the batches of all ranks.
fn weave(ranks: &[Batch]) -> Vec<u32> {
    (0..ranks[0].n_instances())
        .flat_map(|i| ranks.iter().map(move |rank| rank.indices[i]))
        .collect()
}

#[test]
fn rows_are_the_instances_of_the_indices() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 11);
    let config = DataLoaderConfig { global_batch_size: 3, ..Default::default() };
    let batch = loader(&dataset, config, LoaderState::default()).next_batch().unwrap();
    for (&index, row) in batch.indices.iter().zip(batch.rows()) {
        assert_eq!(row, dataset.get(index as usize).unwrap().tokens);
        assert_eq!(row[0], index * SEQ_LEN as u32);
    }
    assert_eq!(batch.rows().len(), 3);
}

#[test]
fn each_epoch_has_its_own_shuffle_and_whole_batches() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 11);
    let config = DataLoaderConfig { global_batch_size: 3, seed: 7, ..Default::default() };
    let mut loader = loader(&dataset, config, LoaderState::default());
    assert_eq!(loader.n_batches_per_epoch(), 3);
    for epoch in 0..3 {
        let order =
            DataOrder::new(11, &DataOrderConfig { seed: 7, epoch, ..Default::default() }).unwrap();
        for b in 0..3 {
            assert_eq!(loader.state(), state(epoch, 3 * b));
            let batch = loader.next_in_epoch().unwrap().unwrap();
            assert_eq!(batch.indices, order.global_indices()[3 * b..3 * b + 3]);
        }
        assert_eq!(loader.state(), state(epoch, 9));
        assert_eq!(loader.next_in_epoch().unwrap(), None);
    }
}

#[test]
fn a_padded_epoch_keeps_its_last_batch() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 11);
    let config = DataLoaderConfig {
        global_batch_size: 8,
        world_size: 4,
        tail: Tail::Pad,
        ..Default::default()
    };
    let mut loader = loader(&dataset, config, LoaderState::default());
    assert_eq!(loader.n_batches_per_epoch(), 2);
    assert_eq!(loader.next_in_epoch().unwrap().unwrap().n_instances(), 2);
    assert_eq!(loader.next_in_epoch().unwrap().unwrap().n_instances(), 1);
    assert_eq!(loader.state().n_instances_seen, 12);
    assert_eq!(loader.next_in_epoch().unwrap(), None);
}

#[test]
fn settings_that_make_no_sense_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 11);
    let new = |config, state| DataLoader::new(Arc::clone(&dataset), config, state).err();
    let default = DataLoaderConfig::default();
    let start = LoaderState::default();
    let zero = DataLoaderConfig { global_batch_size: 0, ..default };
    assert!(matches!(new(zero, start), Some(Error::Setting { name: "global_batch_size", .. })));
    let uneven = DataLoaderConfig { global_batch_size: 3, world_size: 2, ..default };
    assert!(matches!(new(uneven, start), Some(Error::Setting { name: "global_batch_size", .. })));
    let no_ranks = DataLoaderConfig { world_size: 0, ..default };
    assert!(matches!(new(no_ranks, start), Some(Error::Setting { name: "world_size", .. })));
    let large = DataLoaderConfig { global_batch_size: 12, ..default };
    let found = new(large, start);
    assert!(matches!(found, Some(Error::NoBatches { n_instances: 11, global_batch_size: 12 })));
    let padded =
        DataLoaderConfig { global_batch_size: 2, world_size: 2, tail: Tail::Pad, ..default };
    let odd = state(0, 3);
    assert!(matches!(new(padded, odd), Some(Error::Setting { name: "n_instances_seen", .. })));
}

#[test]
fn an_error_comes_in_its_turn_and_stops_the_loader() {
    let folder = tempfile::tempdir().unwrap();
    drop(dataset(folder.path(), 12));
    let open = |vocab| {
        let path = folder.path().join("tokens.npy");
        let dataset = TokenDataset::open(&[path], TokenDtype::Uint16, SEQ_LEN).unwrap();
        Arc::new(dataset.with_vocab_size(vocab))
    };
    // Only the last instance holds a token past the vocabulary.
    let dataset = open(47);
    for prefetch in [0, 1, 8] {
        let config = DataLoaderConfig {
            global_batch_size: 4,
            shuffle: false,
            prefetch,
            ..Default::default()
        };
        let mut loader = loader(&dataset, config, LoaderState::default());
        loader.next_batch().unwrap();
        loader.next_batch().unwrap();
        let error = loader.next_batch().unwrap_err();
        assert!(matches!(error, Error::TokenOutOfRange { token: 47, .. }), "{error}");
        assert!(loader.next_batch().is_err());
        assert_eq!(loader.state().n_instances_seen, 8);
    }
}

#[test]
fn a_loader_dropped_with_batches_waiting_ends_its_thread() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 12);
    for n_taken in 0..4 {
        let config = DataLoaderConfig { global_batch_size: 2, prefetch: 1, ..Default::default() };
        let mut loader = loader(&dataset, config, LoaderState::default());
        for _ in 0..n_taken {
            loader.next_batch().unwrap();
        }
        drop(loader);
        // The thread held a second reference; it is gone once the thread has been joined.
        assert_eq!(Arc::strong_count(&dataset), 1);
    }
}

#[test]
fn the_state_is_plain_json() {
    let state = state(2, 12);
    let json = serde_json::to_string(&state).unwrap();
    assert_eq!(json, r#"{"epoch":2,"n_instances_seen":12,"n_tokens_seen":48}"#);
    assert_eq!(serde_json::from_str::<LoaderState>(&json).unwrap(), state);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_run_resumed_on_other_ranks_sees_the_same_global_batches(
        n_instances in 12usize..60,
        first in prop::sample::select(vec![1usize, 2, 3, 4, 6]),
        second in prop::sample::select(vec![1usize, 2, 3, 4, 6]),
        n_before in 0usize..8,
        prefetch in 0usize..3,
        seed in 0u64..4,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let dataset = dataset(folder.path(), n_instances);
        let config = DataLoaderConfig { global_batch_size: 12, seed, prefetch, ..Default::default() };
        let mut alone = loader(&dataset, config, LoaderState::default());

        let ranks = |world_size, state| -> Vec<DataLoader> {
            (0..world_size)
                .map(|rank| loader(&dataset, DataLoaderConfig { world_size, rank, ..config }, state))
                .collect()
        };
        let mut loaders = ranks(first, LoaderState::default());
        for step in 0..n_before + 6 {
            if step == n_before {
                loaders = ranks(second, loaders[0].state());
            }
            let batches: Vec<Batch> =
                loaders.iter_mut().map(|loader| loader.next_batch().unwrap()).collect();
            prop_assert_eq!(weave(&batches), alone.next_batch().unwrap().indices);
            prop_assert!(loaders.iter().all(|loader| loader.state() == alone.state()));
        }
    }
}
