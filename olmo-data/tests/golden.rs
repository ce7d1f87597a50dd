//! Random numbers, data order and file cutting against vectors of NumPy and ai2-olmo.
//!
//! The vectors are made by `scripts/golden/numpy_rng.py`, `data_order.py` and `python_shuffle.py`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use olmo_data::rng::{Generator, Pcg64, SeedSequence, python_shuffle};
use olmo_data::{
    DataLoader, DataLoaderConfig, DataOrder, DataOrderConfig, Error, LoaderState, Tail,
    TokenDataset, TokenDtype,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data");
    serde_json::from_slice(&std::fs::read(folder.join(name)).expect(name)).expect(name)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// A value that JSON holds as it is.
fn plain<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("a value of the right type")
}

/// A 64-bit number, which JSON holds as text.
fn wide(value: &Value) -> u64 {
    value.as_str().expect("text").parse().expect("a number")
}

fn wides(value: &Value) -> Vec<u64> {
    list(value).iter().map(wide).collect()
}

fn hex(value: &Value) -> u128 {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).expect("hexadecimal");
    u128::from_str_radix(digits, 16).expect("hexadecimal")
}

#[test]
fn seed_sequences_are_numpys() {
    for case in list(&golden("numpy_rng.json")["seed_sequences"]) {
        let sequence = SeedSequence::from_words(&plain::<Vec<u32>>(&case["entropy"]));
        assert_eq!(sequence.generate_u32(9), plain::<Vec<u32>>(&case["u32"]), "{case}");
        assert_eq!(sequence.generate_u64(5), wides(&case["u64"]), "{case}");
    }
}

#[test]
fn streams_are_numpys() {
    let golden = golden("numpy_rng.json");
    let streams = list(&golden["streams"]);
    assert_eq!(streams.len(), 8);
    for case in streams {
        let seed = wide(&case["seed"]);
        let mut bits = Pcg64::new(seed);
        assert_eq!((bits.state(), bits.increment()), (hex(&case["state"]), hex(&case["inc"])));
        assert_eq!((0..8).map(|_| bits.next_u64()).collect::<Vec<_>>(), wides(&case["raw"]));

        let mut halves = Generator::new(seed);
        let drawn: Vec<u32> = (0..8).map(|_| halves.next_u32()).collect();
        assert_eq!(drawn, plain::<Vec<u32>>(&case["u32"]), "seed {seed}");

        let mut mixed = Generator::new(seed);
        let first = u64::from(mixed.next_u32());
        let drawn = [first, mixed.next_u64(), mixed.next_u64(), u64::from(mixed.next_u32())];
        assert_eq!(drawn.to_vec(), wides(&case["mixed"]), "seed {seed}");

        let mut floats = Generator::new(seed);
        let drawn: Vec<u64> = (0..6).map(|_| floats.random().to_bits()).collect();
        assert_eq!(drawn, wides(&case["random_bits"]), "seed {seed}");

        let expected: Vec<usize> = plain(&case["permutation"]);
        assert_eq!(Generator::new(seed).permutation(20), expected, "seed {seed}");
    }
}

#[test]
fn shuffles_are_numpys() {
    let golden = golden("numpy_rng.json");
    let shuffles = list(&golden["shuffles"]);
    assert_eq!(shuffles.len(), 48);
    for case in shuffles {
        let mut values: Vec<u32> = (0..plain(&case["n"])).collect();
        Generator::new(wide(&case["seed"])).shuffle(&mut values);
        if let Some(expected) = case.get("values") {
            assert_eq!(values, plain::<Vec<u32>>(expected), "{case}");
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(crc32fast::hash(&bytes), plain::<u32>(&case["crc32"]), "{case}");
    }
}

#[test]
fn bounded_integers_are_numpys() {
    let golden = golden("numpy_rng.json");
    let cases = list(&golden["integers"]);
    assert_eq!(cases.len(), 45);
    for case in cases {
        let mut generator = Generator::new(wide(&case["seed"]));
        let (low, high) = (wide(&case["low"]), wide(&case["high"]));
        for expected in wides(&case["values"]) {
            assert_eq!(generator.integers(low, high).expect("a range"), expected, "{case}");
        }
    }
    let mut generator = Generator::new(6198);
    for expected in wides(&golden["integers_full"]) {
        assert_eq!(generator.integers_inclusive(0, u64::MAX).expect("a range"), expected);
    }
}

fn order_config(case: &Value) -> DataOrderConfig {
    DataOrderConfig {
        seed: plain(&case["seed"]),
        epoch: plain(&case["epoch"]),
        world_size: plain(&case["world_size"]),
        rank: 0,
        tail: if plain(&case["drop_last"]) { Tail::Drop } else { Tail::Pad },
        start_index: plain(&case["start_index"]),
        max_examples: plain(&case["max_examples"]),
        shuffle: plain(&case["shuffle"]),
    }
}

#[test]
fn data_orders_are_those_of_the_original_trainer() {
    let golden = golden("data_order.json");
    let cases = list(&golden["orders"]);
    assert_eq!(cases.len(), 62);
    for case in cases {
        let config = order_config(case);
        let order = DataOrder::new(plain(&case["n_instances"]), &config).expect("an order");
        assert_eq!(order.global_indices(), plain::<Vec<u32>>(&case["global"]), "{config:?}");
        for (rank, expected) in list(&case["ranks"]).iter().enumerate() {
            let indices: Vec<u32> = order.rank_indices_of(rank).expect("a rank").collect();
            assert_eq!(indices, plain::<Vec<u32>>(expected), "rank {rank} of {config:?}");
        }
    }
}

#[test]
fn loader_batches_are_those_of_the_original_trainer() {
    let folder = tempfile::tempdir().expect("a folder");
    for case in list(&golden("data_order.json")["orders"]) {
        let n_instances: u32 = plain(&case["n_instances"]);
        let path = folder.path().join(format!("{n_instances}.npy"));
        let bytes: Vec<u8> = (0..n_instances).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, bytes).expect("written");
        let dataset = TokenDataset::open(&[path], TokenDtype::Uint32, 1).expect("a dataset");
        let dataset = Arc::new(dataset);

        let order = order_config(case);
        let sizes: Vec<usize> = plain(&case["batch_sizes"]);
        let state = LoaderState {
            epoch: order.epoch,
            n_instances_seen: order.start_index,
            ..LoaderState::default()
        };
        for (rank, indices) in list(&case["ranks"]).iter().enumerate() {
            let indices: Vec<u32> = plain(indices);
            let config = DataLoaderConfig {
                global_batch_size: plain(&case["global_batch_size"]),
                world_size: order.world_size,
                rank,
                seed: order.seed,
                tail: order.tail,
                shuffle: order.shuffle,
                max_examples: order.max_examples,
                prefetch: 1,
                ..DataLoaderConfig::default()
            };
            let mut loader = match DataLoader::new(Arc::clone(&dataset), config, state) {
                Ok(loader) => loader,
                Err(Error::NoBatches { .. }) => {
                    assert!(sizes.is_empty(), "{config:?}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let mut at = 0;
            for &size in &sizes {
                let batch = loader.next_in_epoch().expect("read").expect("a batch");
                assert_eq!(batch.indices, indices[at..at + size], "{config:?}");
                assert_eq!(batch.tokens, batch.indices);
                at += size;
            }
            assert_eq!(loader.next_in_epoch().expect("read"), None, "{config:?}");
        }
    }
}

#[test]
fn files_are_cut_as_the_original_dataset_cuts_them() {
    let golden = golden("data_order.json");
    let folder = tempfile::tempdir().expect("a folder");
    let mut next = 0u16;
    let mut paths: Vec<PathBuf> = Vec::new();
    for length in plain::<Vec<u16>>(&golden["cuts"]["lengths"]) {
        let path = folder.path().join(format!("{next}-{length}.npy"));
        let bytes: Vec<u8> = (next..next + length).flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, bytes).expect("written");
        next += length;
        paths.push(path);
    }
    for case in list(&golden["cuts"]["cases"]) {
        let dataset = TokenDataset::open(&paths, TokenDtype::Uint16, plain(&case["seq_len"]))
            .expect("a dataset");
        let instances: Vec<Vec<u32>> =
            (0..dataset.len()).map(|i| dataset.get(i).expect("an instance").tokens).collect();
        assert_eq!(instances, plain::<Vec<Vec<u32>>>(&case["instances"]));
    }
}

#[test]
fn files_are_shuffled_as_by_python() {
    for case in list(&golden("python_shuffle.json")) {
        let (n, order): (usize, Vec<usize>) = (plain(&case["n"]), plain(&case["order"]));
        let mut found = python_shuffle(n, wide(&case["seed"]));
        assert_eq!(found[..order.len()], order, "{n} with seed {}", case["seed"]);
        found.sort_unstable();
        assert!(found.into_iter().eq(0..n));
    }
}
