//! Instances of documents against vectors of ai2-olmo-core.
//!
//! The vectors are made by `scripts/golden/core_datasets.py`.

use std::path::{Path, PathBuf};

use olmo_data::fingerprint::{LongDocStrategy, SpecialTokenIds};
use olmo_data::instances::{
    FslInstances, InstanceConfig, InstanceItem, Instances, InterleavedInstances, MixtureSource,
    PackedInstances, PaddedInstances, RepetitionFilter, Sources, VslInstances,
    find_periodic_sequences, mixture,
};
use olmo_data::official::InstanceFilterConfig;
use olmo_data::{Error, TokenDtype, VslCurriculum};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden() -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data/core_datasets.json");
    serde_json::from_slice(&std::fs::read(path).expect("vectors")).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn plain<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("a value of the right type")
}

fn number(value: &Value, name: &str) -> usize {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}")) as usize
}

/// Writes the files of a source and returns their paths and those of the masks.
fn write_sources(folder: &Path, source: &Value) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut paths, mut mask_paths) = (Vec::new(), Vec::new());
    let tokens: Vec<Vec<u16>> = plain(&source["tokens"]);
    let masks: Vec<Vec<u8>> = plain(&source["masks"]);
    for (i, (tokens, mask)) in tokens.iter().zip(masks).enumerate() {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        paths.push(folder.join(format!("{i}.npy")));
        std::fs::write(&paths[i], bytes).expect("written");
        mask_paths.push(folder.join(format!("{i}.mask.npy")));
        std::fs::write(&mask_paths[i], mask).expect("written");
    }
    (paths, mask_paths)
}

const IDS: SpecialTokenIds =
    SpecialTokenIds { vocab_size: 64, pad_token_id: 1, eos_token_id: 0, bos_token_id: None };

fn plain_config() -> InstanceConfig {
    InstanceConfig { ids: IDS, generate_doc_lengths: false, filter: None }
}

fn expected_item(item: &Value) -> InstanceItem {
    let mask = item.get("label_mask").map(plain::<Vec<u8>>);
    InstanceItem {
        input_ids: plain(&item["input_ids"]),
        label_mask: mask.map(|mask| mask.into_iter().map(|value| value == 1).collect()),
        instance_mask: item.get("instance_mask").map(plain),
        doc_lens: item.get("doc_lens").map(plain),
    }
}

fn instances(case: &Value, sources: Sources) -> Box<dyn Instances> {
    let (arguments, extra) = (&case["arguments"], &case["extra"]);
    let is = |name: &str| extra[name].as_bool() == Some(true);
    let keep = InstanceFilterConfig {
        repetition_max_period: 3,
        repetition_min_period: 1,
        repetition_max_count: 3,
    };
    let config = InstanceConfig {
        ids: SpecialTokenIds { bos_token_id: is("bos").then_some(2), ..IDS },
        generate_doc_lengths: is("doc_lens"),
        filter: is("filter").then(|| RepetitionFilter::new(keep)),
    };
    let sequence_length = number(arguments, "sequence_length");
    match case["kind"].as_str().expect("a kind") {
        "fsl" => Box::new(FslInstances::new(sources, config, sequence_length).expect("made")),
        "padded" => Box::new(PaddedInstances::new(sources, config, sequence_length).expect("made")),
        "packed" => {
            let strategy = match arguments["long_doc_strategy"].as_str() {
                Some("fragment") => LongDocStrategy::Fragment,
                _ => LongDocStrategy::Truncate,
            };
            let group = arguments["source_group_size"].as_u64().unwrap_or(1) as usize;
            let made = PackedInstances::new(sources, config, sequence_length, strategy, group);
            Box::new(made.expect("made"))
        }
        _ => {
            let exempt: Vec<usize> =
                extra["exempt"].as_u64().map(|i| i as usize).into_iter().collect();
            let made = InterleavedInstances::new(
                sources,
                config,
                sequence_length,
                number(arguments, "docs_per_instance"),
                number(arguments, "chunks_per_doc"),
                number(arguments, "seed") as u64,
                &exempt,
            );
            Box::new(made.expect("made"))
        }
    }
}

#[test]
fn instances_are_those_of_olmo_core() {
    let golden = golden();
    assert_eq!(list(&golden["cases"]).len(), 12);
    let mut n_left_out = 0;
    for case in list(&golden["cases"]) {
        let bos = case["extra"]["bos"].as_bool() == Some(true);
        let folder = tempfile::tempdir().expect("a folder");
        let source = &golden["sources"][if bos { "bos" } else { "plain" }];
        let (paths, masks) = write_sources(folder.path(), source);
        let masked = case["extra"]["mask"].as_bool() == Some(true);
        let sources = Sources::open(&paths, TokenDtype::Uint16, masked.then_some(&masks[..]))
            .expect("opened");
        let found = instances(case, sources);
        let about = format!("{} {} {}", case["kind"], case["arguments"], case["extra"]);
        assert_eq!(found.len(), list(&case["items"]).len(), "{about}");
        for (i, item) in list(&case["items"]).iter().enumerate() {
            let item = expected_item(item);
            n_left_out += usize::from(item.instance_mask == Some(false));
            assert_eq!(found.get(i).expect("read"), item, "{i} of {about}");
        }
        assert!(matches!(found.get(found.len()), Err(Error::InstanceIndex { .. })));
    }
    assert!(n_left_out > 3, "the filter was hardly at work");
}

#[test]
fn lengths_and_their_order_are_those_of_olmo_core() {
    let golden = golden();
    let folder = tempfile::tempdir().expect("a folder");
    let (paths, _) = write_sources(folder.path(), &golden["sources"]["plain"]);
    assert_eq!(list(&golden["vsl"]).len(), 3);
    for case in list(&golden["vsl"]) {
        let sources = Sources::open(&paths, TokenDtype::Uint16, None).expect("opened");
        let found = VslInstances::new(sources, plain_config(), 2, 8).expect("made");
        let items: Vec<Vec<u32>> = plain(&case["items"]);
        assert_eq!(found.len(), items.len());
        for (i, item) in items.into_iter().enumerate() {
            assert_eq!(found.get(i).expect("read").input_ids, item);
        }
        let buckets: Vec<(usize, usize)> = plain(&case["instances_per_bucket"]);
        assert_eq!(found.instances_per_bucket(), buckets);
        let curriculum: VslCurriculum = plain(&case["curriculum"]);
        let order = found.order(curriculum, 16, 7, 2).expect("an order");
        let ranks: Vec<Vec<Vec<u32>>> = plain(&case["ranks"]);
        for (rank, batches) in ranks.iter().enumerate() {
            assert_eq!(order.batches.len(), batches.len());
            for (i, batch) in batches.iter().enumerate() {
                assert_eq!(order.rank_batch(i, rank, ranks.len()).expect("a batch"), batch);
            }
        }
    }
}

#[test]
fn mixtures_are_those_of_olmo_core() {
    let golden = golden();
    assert_eq!(list(&golden["mixtures"]).len(), 6);
    for case in list(&golden["mixtures"]) {
        type Row = (f64, f64, f64, Vec<u64>);
        let sources: Vec<MixtureSource> = plain::<Vec<Row>>(&case["sources"])
            .into_iter()
            .enumerate()
            .map(|(i, (target_ratio, max_repetition_ratio, max_source_fraction, n_tokens))| {
                let name = format!("s{i}");
                MixtureSource {
                    name,
                    target_ratio,
                    max_repetition_ratio,
                    max_source_fraction,
                    n_tokens,
                }
            })
            .collect();
        let sequence_length = number(case, "sequence_length");
        let found = mixture(
            &sources,
            number(case, "requested_tokens") as u64,
            number(case, "global_batch_size") as u64,
            sequence_length as u64,
        );
        let Some(expected) = plain::<Option<Vec<(usize, usize, u64)>>>(&case["parts"]) else {
            assert!(matches!(found, Err(Error::Mixture { .. })), "{case}");
            continue;
        };
        let found = found.expect("a mixture");
        let parts: Vec<_> =
            found.iter().map(|part| (part.source, part.file, part.n_tokens)).collect();
        assert_eq!(parts, expected, "{case}");

        let folder = tempfile::tempdir().expect("a folder");
        let mut paths = Vec::new();
        for part in &found {
            let length = sources[part.source].n_tokens[part.file] as u16;
            paths.push(folder.path().join(format!("{}-{}.npy", part.source, part.file)));
            let bytes: Vec<u8> = (0..length).flat_map(u16::to_le_bytes).collect();
            std::fs::write(paths.last().expect("a path"), bytes).expect("written");
        }
        let n_tokens: Vec<u64> = found.iter().map(|part| part.n_tokens).collect();
        let opened = Sources::open(&paths, TokenDtype::Uint16, None).expect("opened");
        let made = FslInstances::mixture(opened, plain_config(), sequence_length, &n_tokens)
            .expect("made");
        let firsts: Vec<u32> =
            (0..made.len()).map(|i| made.get(i).expect("read").input_ids[0]).collect();
        assert_eq!(firsts, plain::<Vec<u32>>(&case["first_tokens"]));
    }
}

#[test]
fn repetitions_are_those_of_olmo_core() {
    let golden = golden();
    let mut n_found = 0;
    for case in list(&golden["repetitions"]) {
        let tokens: Vec<u32> = plain(&case["tokens"]);
        let found: Vec<(i64, i64, usize, i64)> = find_periodic_sequences(&tokens, 13, 1)
            .iter()
            .map(|found| (found.start, found.end, found.period, found.times))
            .collect();
        n_found += found.len();
        assert_eq!(found, plain::<Vec<(i64, i64, usize, i64)>>(&case["found"]), "{tokens:?}");
    }
    assert!(n_found > 50, "only {n_found} repetitions");
}

#[test]
fn masks_that_do_not_fit_their_tokens_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens.npy");
    let mask = folder.path().join("mask.npy");
    std::fs::write(&tokens, [1, 0, 2, 0]).expect("written");
    let open = |paths: &[PathBuf]| {
        Sources::open(std::slice::from_ref(&tokens), TokenDtype::Uint16, Some(paths))
    };
    std::fs::write(&mask, [1]).expect("written");
    let error = open(std::slice::from_ref(&mask)).expect_err("too short");
    assert!(matches!(error, Error::LabelMaskLen { found: 1, expected: 2, .. }));
    assert!(matches!(open(&[]), Err(Error::Setting { .. })));
    std::fs::write(&mask, [1, 7]).expect("written");
    let sources = open(std::slice::from_ref(&mask)).expect("of the right length");
    let made = FslInstances::new(sources, plain_config(), 2).expect("made");
    let error = made.get(0).expect_err("7 is no truth value");
    assert!(matches!(error, Error::TokenOutOfRange { position: 1, token: 7, .. }));
}
