//! OLMo-core's order, curricula and fingerprints against vectors of ai2-olmo-core.
//!
//! The vectors are made by `scripts/golden/core_order.py`.

use std::path::{Path, PathBuf};

use olmo_data::fingerprint::{DatasetKind, LongDocStrategy, SpecialTokenIds, fingerprint};
use olmo_data::{FslOrder, FslOrderConfig, GlobalIndices, TokenDataset, TokenDtype, VslCurriculum};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    orders: Vec<OrderCase>,
    fingerprints: Vec<Value>,
    curricula: Vec<CurriculumCase>,
}

#[derive(Deserialize)]
struct OrderCase {
    case: Settings,
    n_instances: usize,
    fingerprint: String,
    file: String,
    global_indices: Vec<u32>,
    first: Vec<Vec<Batch>>,
    state: State,
    then: Vec<Vec<Batch>>,
    next_epoch: Vec<Vec<Batch>>,
}

#[derive(Deserialize)]
struct Settings {
    lengths: Vec<u16>,
    sequence_length: usize,
    max_target_sequence_length: Option<usize>,
    seed: u64,
    epoch: u64,
    shuffle: bool,
    n_first: usize,
    first: Ranks,
    then: Ranks,
}

#[derive(Deserialize, Clone, Copy)]
struct Ranks {
    global_batch_size: usize,
    world_size: usize,
}

#[derive(Deserialize)]
struct Batch {
    index: Vec<u32>,
    first_tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct State {
    batches_processed: usize,
    tokens_processed: u64,
    epoch: u64,
}

#[derive(Deserialize)]
struct CurriculumCase {
    curriculum: VslCurriculum,
    repr: String,
    short_str: String,
    instances: Vec<(usize, usize)>,
    global_batch_size: usize,
    batches: Vec<(usize, usize)>,
    indices: Option<Vec<u32>>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data/core_order.json");
    serde_json::from_slice(&std::fs::read(path).expect("vectors")).expect("their shape")
}

const IDS: SpecialTokenIds =
    SpecialTokenIds { vocab_size: 32, pad_token_id: 1, eos_token_id: 0, bos_token_id: None };

fn dataset(folder: &Path, case: &Settings) -> TokenDataset {
    let mut first = 0;
    let mut paths: Vec<PathBuf> = Vec::new();
    for (i, &length) in case.lengths.iter().enumerate() {
        let bytes: Vec<u8> = (first..first + length).flat_map(u16::to_le_bytes).collect();
        paths.push(folder.join(format!("part-{i}-00000.npy")));
        std::fs::write(&paths[i], bytes).expect("written");
        first += length;
    }
    let dataset =
        TokenDataset::open(&paths, TokenDtype::Uint16, case.sequence_length).expect("a dataset");
    match case.max_target_sequence_length {
        None => dataset,
        Some(max) => dataset.with_max_target_sequence_length(max).expect("a multiple"),
    }
}

/// The settings of the order that a case's loader has.
fn config(case: &Settings, ranks: Ranks, epoch: u64) -> FslOrderConfig {
    let max = case.max_target_sequence_length.unwrap_or(case.sequence_length);
    FslOrderConfig {
        seed: case.seed,
        epoch,
        shuffle: case.shuffle,
        chunk_size: max / case.sequence_length,
        global_batch_size: ranks.global_batch_size,
        sequence_length: case.sequence_length,
    }
}

#[test]
fn orders_are_those_of_olmo_core_over_restarts_and_other_ranks() {
    let golden = golden();
    assert_eq!(golden.orders.len(), 14);
    for OrderCase {
        case,
        n_instances,
        file,
        global_indices,
        first,
        state,
        then,
        next_epoch,
        fingerprint: expected,
    } in golden.orders
    {
        let folder = tempfile::tempdir().expect("a folder");
        let dataset = dataset(folder.path(), &case);
        assert_eq!(dataset.len(), n_instances);
        let kind = DatasetKind::Fsl { max_target_sequence_length: case.max_target_sequence_length };
        let files = dataset.files().iter().map(|file| {
            (file.path().to_owned(), std::fs::metadata(file.path()).expect("there").len())
        });
        assert_eq!(fingerprint(&kind, IDS, TokenDtype::Uint16, files), expected);

        let check = |ranks: Ranks,
                     epoch: u64,
                     start: usize,
                     expected: &[Vec<Batch>],
                     limit: Option<usize>| {
            let config = config(&case, ranks, epoch);
            let order = FslOrder::new(n_instances, &config).expect("an order");
            let per_rank = config.instances_per_batch() / ranks.world_size;
            for (rank, batches) in expected.iter().enumerate() {
                let indices: Vec<u32> =
                    order.rank_indices(start, rank, ranks.world_size).expect("a rank").collect();
                let found: Vec<&[u32]> =
                    indices.chunks_exact(per_rank).take(limit.unwrap_or(usize::MAX)).collect();
                assert_eq!(found.len(), batches.len(), "{config:?}");
                for (found, batch) in found.into_iter().zip(batches) {
                    assert_eq!(found, batch.index, "{config:?}");
                    for (&index, &token) in found.iter().zip(&batch.first_tokens) {
                        assert_eq!(dataset.get(index as usize).expect("read").tokens[0], token);
                    }
                }
            }
        };
        check(case.first, case.epoch, 0, &first, Some(case.n_first));
        assert_eq!(state.batches_processed, case.n_first);
        let resumed =
            config(&case, case.then, state.epoch).batches_processed(state.tokens_processed);
        check(case.then, state.epoch, resumed, &then, None);
        check(case.then, state.epoch + 1, 0, &next_epoch, None);

        let order =
            FslOrder::new(n_instances, &config(&case, case.first, case.epoch)).expect("an order");
        assert_eq!(order.global_indices(), global_indices);
        let path = order.write_global_indices(folder.path()).expect("written");
        assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(&*file));
        let saved = GlobalIndices::open(path).expect("opened");
        assert_eq!(saved.read(0..saved.len()).expect("read"), global_indices);
    }
}

fn number(case: &Value, name: &str) -> usize {
    case[name].as_u64().expect(name) as usize
}

#[test]
fn fingerprints_are_those_of_olmo_core() {
    let golden = golden();
    assert_eq!(golden.fingerprints.len(), 13);
    for case in golden.fingerprints {
        let max = case["max"].as_u64().map(|max| max as usize);
        let kind = match case["class"].as_str().expect("a class") {
            "fsl" => DatasetKind::Fsl { max_target_sequence_length: max },
            "mixture" => DatasetKind::FslMixture { max_target_sequence_length: max },
            "padded" => {
                DatasetKind::PaddedFsl { sequence_length: number(&case, "sequence_length") }
            }
            "packed" => DatasetKind::PackedFsl {
                sequence_length: number(&case, "sequence_length"),
                long_doc_strategy: match case["fragment"].as_bool() {
                    Some(true) => LongDocStrategy::Fragment,
                    _ => LongDocStrategy::Truncate,
                },
                source_group_size: case["group"].as_u64().unwrap_or(1) as usize,
            },
            "interleaved" => DatasetKind::InterleavedFsl {
                sequence_length: number(&case, "sequence_length"),
                docs_per_instance: number(&case, "docs"),
                seed: number(&case, "seed") as u64,
                interleaving_exempt_paths: serde_json::from_value(case["exempt"].clone())
                    .expect("paths"),
            },
            _ => DatasetKind::Vsl {
                min_sequence_length: number(&case, "min"),
                max_sequence_length: number(&case, "max"),
                curriculum: serde_json::from_value(case["curriculum"].clone())
                    .expect("a curriculum"),
            },
        };
        let bos_token_id = case["bos"].as_u64().map(|id| id as u32);
        let ids = SpecialTokenIds { bos_token_id, ..IDS };
        let dtype: TokenDtype = serde_json::from_value(case["dtype"].clone()).expect("a type");
        let files: Vec<(String, u64)> =
            serde_json::from_value(case["files"].clone()).expect("files");
        assert_eq!(
            Some(&*fingerprint(&kind, ids, dtype, files)),
            case["fingerprint"].as_str(),
            "{case}"
        );
    }
}

#[test]
fn curricula_are_those_of_olmo_core() {
    let golden = golden();
    assert_eq!(golden.curricula.len(), 15);
    let mut n_orders = 0;
    for case in golden.curricula {
        let CurriculumCase {
            curriculum,
            repr,
            short_str,
            instances,
            global_batch_size,
            batches,
            indices,
        } = case;
        assert_eq!((curriculum.to_string(), curriculum.short_str()), (repr, short_str));
        assert_eq!(curriculum.batches_per_bucket(&instances, global_batch_size), batches);
        let found = curriculum.batch_indices(&batches, 6199).ok();
        assert_eq!(found, indices, "{curriculum:?}");
        n_orders += usize::from(found.is_some());
    }
    assert!(n_orders > 8, "only {n_orders} have an order");
}
