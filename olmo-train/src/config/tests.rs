//! Tests of the configuration.

use olmo_data::{BatchOrder, VslCurriculum};

use super::*;

const YAML: &str = "
run_name: test
save_folder: runs/test
model: {preset: olmo2_1b, n_layers: 2, attention: {n_heads: 4, n_kv_heads: 2, head_dim: 8}}
data: {paths: [a.npy, b.npy], sequence_length: 64}
scheduler: {name: linear_with_warmup, t_warmup: 5, alpha_f: 0.1}
global_train_batch_size: 8
device_train_microbatch_size: 4
max_duration: 20
save_interval: 10
";

pub(crate) fn parse(overrides: &[&str]) -> Result<TrainConfig, Error> {
    let overrides: Vec<_> = overrides.iter().map(ToString::to_string).collect();
    TrainConfig::parse(YAML, &overrides, "test.yaml")
}

#[test]
fn a_preset_is_changed_by_the_fields_beside_it() {
    let config = parse(&[]).expect("sound");
    assert_eq!((config.model.n_layers, config.model.d_model), (2, 2048));
    assert_eq!((config.model.attention.n_kv_heads, config.model.attention.qk_norm), (2, true));
    assert_eq!(config.tokens_per_step(), 512);
}

#[test]
fn the_resolved_configuration_reads_back_as_itself() {
    let config = parse(&["max_grad_norm=1.0", "data.seed=7"]).expect("sound");
    let yaml = config.to_yaml().expect("plain data");
    assert_eq!(TrainConfig::parse(&yaml, &[], "again").expect("our own"), config);
}

#[test]
fn overrides_reach_into_maps_and_lists() {
    let config = parse(&["data.paths.1=c.npy", "optimizer.betas=[0.8, 0.9]"]).expect("sound");
    assert_eq!(config.data.paths, [PathBuf::from("a.npy"), PathBuf::from("c.npy")]);
    assert!(config.optimizer.betas.iter().zip([0.8, 0.9]).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn routers_have_the_published_losses_unless_others_are_given() {
    let weights = |overrides: &[&str]| {
        let weights = parse(overrides).expect("sound").router_weights();
        [weights.load_balancing, weights.z].map(|weight| weight.to_string())
    };
    let moe = "model={preset: olmoe_1b_7b, n_layers: 2}";
    assert_eq!(weights(&[moe]), ["0.01", "0.001"]);
    assert_eq!(weights(&[moe, "router_losses.z_loss_weight=0"]), ["0.01", "0"]);
    assert_eq!(weights(&[]), ["0", "0"]);
    let error = parse(&["router_losses.z_loss_weight=0"]).expect_err("no routers").to_string();
    assert!(error.contains("only with a model of experts"), "{error}");
    let error = parse(&[moe, "router_losses.lb_loss_weight=-1"]).expect_err("below 0");
    assert!(error.to_string().contains("router_losses.lb_loss_weight is -1"), "{error}");
}

#[test]
fn data_are_those_of_olmo_core_where_asked() {
    let order = |overrides: &[&str]| parse(overrides).expect("sound").loader().order;
    assert_eq!(order(&[]), BatchOrder::Olmo);
    assert_eq!(order(&["data.order=olmo_core"]), BatchOrder::OlmoCore { chunk_size: 1 });
    let growing = "data.dataset={name: fsl, max_target_sequence_length: 256}";
    let grown = order(&["data.order=olmo_core", growing]);
    assert_eq!(grown, BatchOrder::OlmoCore { chunk_size: 4 });
    let vsl = "data.dataset={name: vsl, min_sequence_length: 8, \
               curriculum: {name: grow_p2, num_cycles: 2, balanced: true}}";
    let curriculum = VslCurriculum::GrowP2 { num_cycles: 2, balanced: true };
    let found = order(&["data.order=olmo_core", "eos_token_id=0", vsl]);
    assert_eq!(found, BatchOrder::OlmoCoreVsl { curriculum });

    let message = |overrides: &[&str]| parse(overrides).expect_err("wrong").to_string();
    assert!(message(&[vsl, "eos_token_id=0"]).contains("expected olmo_core"));
    assert!(message(&[growing]).contains("data.order: olmo_core"));
    let packed = message(&["data.dataset={name: packed_fsl}"]);
    assert!(packed.contains("eos_token_id is missing"), "{packed}");
    assert!(packed.contains("pad_token_id is missing"), "{packed}");
    assert!(message(&["data.generate_doc_lengths=true"]).contains("attention cannot"));
    assert!(message(&["eos_token_id=999999"]).contains("model.vocab_size"));
    assert!(message(&["data.dataset={name: fsl, chunks: 3}"]).contains("chunks"));
    let mixture = "data.dataset={name: fsl_mixture, requested_tokens: 9, sources: []}";
    assert!(message(&[mixture]).contains("expected neither"));
}

#[test]
fn mistakes_are_named() {
    let message = |overrides: &[&str]| parse(overrides).expect_err("wrong").to_string();
    assert!(message(&["max_durations=3"]).contains("max_durations"));
    assert!(message(&["model.preset=olmo_8b"]).contains("olmo_7b"));
    assert!(message(&["device_train_microbatch_size=3"]).contains("multiple of"));
    assert!(message(&["data.sequence_length=9999"]).contains("max_sequence_length"));
    assert!(message(&["max_duration"]).contains("key.path=value"));
    assert!(message(&["data.paths.5=x"]).contains("below 2"));
    let both = message(&["save_interval=0", "z_loss=-1"]);
    assert!(both.contains("save_interval") && both.contains("z_loss"), "{both}");
}

#[test]
fn sets_that_cannot_be_measured_are_refused() {
    for (wrong, part) in [
        ("evaluators=[{label: '', paths: [a.npy]}]", "evaluators.0: label is empty"),
        ("evaluators=[{label: a}]", "expected files in one of paths and datasets"),
        ("evaluators=[{label: a, paths: [a.npy], datasets: {b: [b.npy]}}]", "one of paths and"),
        ("evaluators=[{label: a, datasets: {b: []}}]", "a name without files"),
        ("evaluators=[{label: a, paths: [a.npy, b.jsonl]}]", "raw tokens and documents"),
        (
            "evaluators=[{label: a, paths: [a.npy], subset_num_batches: 0}]",
            "subset_num_batches is 0",
        ),
        ("evaluators=[{label: a, paths: [a.txt], seed: 1}]", "expected neither with documents"),
        ("evaluators=[{label: a, paths: [a], device_eval_batch_size: 0}]", "expected at least 1"),
        (
            "evaluators=[{label: a, paths: [a.npy]}, {label: b, datasets: {a: [b.npy]}}]",
            "evaluators.1 measures \"a\", as one before it does",
        ),
        ("eval_on_load=true", "eval_on_load is there, expected only with evaluators"),
        ("eval_interval=0", "eval_interval is 0"),
    ] {
        let message = parse(&[wrong]).expect_err("wrong").to_string();
        assert!(message.contains(part), "{wrong}: {message}");
    }
}

#[test]
fn a_path_map_says_where_files_are() {
    let config = parse(&[
        "data.paths=['s3://bucket/a.npy', b.npy]",
        "evaluators=[{label: c, paths: ['s3://bucket/c.npy']}]",
        "path_map={s3://bucket: /data}",
    ])
    .expect("sound");
    assert_eq!(config.data.paths, [PathBuf::from("/data/a.npy"), PathBuf::from("b.npy")]);
    assert_eq!(config.evaluators[0].paths, [PathBuf::from("/data/c.npy")]);
    let message = parse(&["path_map=[a]"]).expect_err("a list").to_string();
    assert!(message.contains("path_map is"), "{message}");
}

#[test]
fn an_epoch_has_as_many_steps_as_the_loader_gives() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Of 15 instances of 64 tokens 12 are used where the length may grow to 256.
    let path = folder.path().join("a.npy");
    std::fs::write(&path, vec![0; 15 * 64 * 2]).expect("writable");
    let data = format!("data.paths=[{}]", path.display());
    let batches = ["global_train_batch_size=4", "data.order=olmo_core", "max_duration=2ep"];
    for (dataset, steps) in [
        ("", 3),
        (", max_target_sequence_length: 256", 3),
        (", max_target_sequence_length: 512", 2),
    ] {
        let dataset = format!("data.dataset={{name: fsl{dataset}}}");
        let config = parse(&[&batches[..], &[&data, &dataset]].concat()).expect("sound");
        assert_eq!(config.max_duration.steps, 2 * steps, "{dataset}");
        let opened = crate::data::open(&config).expect("there");
        assert_eq!(opened.instances.len() as u64 / 4, steps, "{dataset}");
    }
}

#[test]
fn files_are_put_into_another_order_with_their_masks() {
    let paths = "data.paths=[a, b, c, d, e]";
    let masks = "data.label_mask_paths=[f, g, h, i, j]";
    let config = parse(&[paths, masks, "data.source_permutation_seed=123"]).expect("sound");
    let permuted = config.data.permuted().expect("a seed");
    let names = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect();
    let found: String = names(&permuted.paths);
    assert_eq!(found, "dbeca");
    let found: String = names(&permuted.label_mask_paths.expect("there"));
    assert_eq!(found, "igjhf");
    assert_eq!(parse(&[paths]).expect("sound").data.permuted(), None);
    let message = |overrides: &[&str]| parse(overrides).expect_err("wrong").to_string();
    assert!(message(&["data.vocab_size=999999"]).contains("data.vocab_size is 999999"));
    assert!(message(&["data.bos_token_id=999999"]).contains("data.bos_token_id is 999999"));
    let unfixed = message(&["optimizer.step_increment_bugfix=false"]);
    assert!(unfixed.contains("skip_step_adamw"), "{unfixed}");
}
