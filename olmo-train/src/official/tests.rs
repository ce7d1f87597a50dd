//! Tests of the translation; those against the reference are in tests/tests/trainer.rs.

use serde_json::json;

use super::*;
use crate::TrainConfig;

const YAML: &str = "
run_name: small
model: {d_model: 32, n_heads: 4, n_layers: 2, mlp_hidden_size: 64, weight_tying: false, rope: true,
  attention_dropout: 0, residual_dropout: 0.0, embedding_dropout: 0, include_bias: false,
  layer_norm_type: default, layer_norm_with_affine: false, attention_layer_norm: false,
  activation_type: swiglu, block_type: sequential, max_sequence_length: 16, vocab_size: 64,
  embedding_size: 64, eos_token_id: 0, pad_token_id: 1, init_fn: mitchell}
optimizer: {name: adamw, learning_rate: 1e-3}
scheduler: {name: cosine_with_warmup, t_warmup: 1_0}
data: {paths: [a.npy], drop_last: true, num_workers: 4}
save_folder: runs/${run_name}
max_duration: 1_6e2T
global_train_batch_size: 4
device_train_microbatch_size: 2
precision: fp32
wandb: {project: x}
compile: null
";

fn translated(overrides: &[&str]) -> Result<Translation, Error> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let mut value: Value = serde_saphyr::from_str_with_options(YAML, options).expect("YAML");
    for text in overrides {
        crate::config::apply_override(&mut value, text).expect("an override");
    }
    assert!(is_official(&value));
    translate(value, Path::new("run.yaml"))
}

fn message(overrides: &[&str]) -> String {
    translated(overrides).expect_err("cannot be followed").to_string()
}

#[test]
fn fields_become_ours_with_the_defaults_of_the_original() {
    let overrides: Vec<String> = ["compat=olmo"].map(String::from).to_vec();
    let config = TrainConfig::parse(YAML, &overrides, "run.yaml").expect("sound");
    assert_eq!(config.max_duration.steps, 1600_u64.div_ceil(64));
    assert_eq!(config.save_folder, Path::new("runs/small"));
    assert_eq!(config.data.sequence_length, 16);
    assert!((config.optimizer.eps - 1e-5).abs() < 1e-20);
    assert!((config.optimizer.weight_decay - 0.01).abs() < 1e-18);
    assert_eq!(config.save_interval, 1000);
    assert_eq!(config.compat, crate::config::Compat::Olmo);
    assert_eq!(config.scheduler.schedule.warmup_length(100), 10);
}

#[test]
fn what_has_no_effect_is_said() {
    let notes = translated(&["gen1_gc_interval=1"]).expect("sound").notes;
    let fields: Vec<&str> = notes.iter().map(|note| note.field.as_str()).collect();
    assert_eq!(fields, ["data.num_workers", "wandb", "gen1_gc_interval"]);
}

#[test]
fn what_cannot_be_followed_is_refused_with_the_reason() {
    for (wrong, part) in [
        ("model.attention_dropout=0.1", "there is no dropout here"),
        ("precision=amp_fp16", "expected fp32 or amp_bf16"),
        ("optimizer.selective_updates=true", "selective_updates"),
        ("optimizer.name=sgd", "expected adamw or lionw"),
        ("optimizer.momentum=1", "optimizer.momentum is no field"),
        ("scheduler.warmup=1", "scheduler.warmup is no field"),
        ("max_steps=3", "max_steps is no field"),
        ("data.drop_last=false", "set it to true"),
        ("load_path=https://host/step5-unsharded", "expected a folder here"),
        ("epoch=1", "epoch is 1"),
        ("model.activation_type=gelu", "activation_type"),
        ("model.init_fn=fan_in", "init_fn is fan_in"),
    ] {
        let message = message(&[wrong]);
        assert!(message.contains(part), "{wrong}: {message}");
    }
    let both = message(&["precision=amp_bf16", "fsdp.precision=pure", "dry_run=true"]);
    assert!(both.contains("a 250th") && both.contains("--dry-run"), "{both}");
}

#[test]
fn legacy_names_and_resets_are_followed() {
    let translation = translated(&[
        "optimizer.name=decoupled_lionw",
        "load_path=weights",
        "reset_optimizer_state=true",
        "restore_dataloader=false",
    ])
    .expect("sound");
    assert_eq!(translation.config["optimizer"]["name"], "lionw");
    let taken = |translation: &Translation| {
        [
            "reset_optimizer_state",
            "reset_trainer_state",
            "restore_dataloader",
            "fast_forward_batches",
        ]
        .map(|name| translation.config.get(name).cloned().unwrap_or_default())
    };
    assert_eq!(translation.config["load_path"], "weights");
    assert_eq!(taken(&translation), [json!(true), json!(false), json!(false), json!(0)]);
    let all = translated(&["load_path=weights", "fast_forward_batches=3"]).expect("sound");
    assert_eq!(taken(&all), [json!(false), json!(false), json!(true), json!(3)]);
    let none = translated(&["fast_forward_batches=3"]).expect("sound");
    assert!(none.notes.iter().any(|note| note.field == "fast_forward_batches"));
    assert_eq!(taken(&none), [Value::Null, Value::Null, Value::Null, Value::Null]);
}

#[test]
fn blocks_are_computed_again_as_the_strategy_says() {
    let activations = |strategy: &str| {
        let strategy = format!("activation_checkpointing={strategy}");
        translated(&[&strategy]).map(|translation| translation.config["activations"].clone())
    };
    for (strategy, expected) in [
        ("whole_layer", json!("recompute")),
        ("one_in_two", json!({"recompute_every": 2})),
        ("one_in_eight", json!({"recompute_every": 8})),
        ("two_in_three", json!({"keep_every": 3})),
        ("three_in_four", json!({"keep_every": 4})),
        ("fine_grained", json!("recompute")),
        ("true", json!("recompute")),
        ("null", Value::Null),
    ] {
        assert_eq!(activations(strategy).expect("a strategy"), expected, "{strategy}");
    }
    let error = activations("one_in_five").expect_err("none of the original's").to_string();
    assert!(error.contains("one_in_five") && error.contains("two_in_three"), "{error}");
}

#[test]
fn checkpoints_that_stay_are_the_unsharded_ones_where_there_are_any() {
    let saves = |overrides: &[&str]| {
        let config = translated(overrides).expect("sound").config;
        ["save_interval", "save_interval_ephemeral", "save_num_checkpoints_to_keep"]
            .map(|name| config.get(name).and_then(Value::as_u64))
    };
    let keep_none = "save_num_checkpoints_to_keep=0";
    let (unsharded, ephemeral) = ("save_interval_unsharded=1000", "save_interval_ephemeral=250");
    assert_eq!(saves(&[]), [Some(1000), None, None]);
    assert_eq!(saves(&[keep_none, unsharded, ephemeral]), [Some(1000), Some(250), None]);
    let many = "save_interval_unsharded=10_000";
    assert_eq!(saves(&[many, "save_num_checkpoints_to_keep=9"]), [Some(10_000), Some(1000), None]);
    assert_eq!(saves(&["save_num_checkpoints_to_keep=9"]), [Some(1000), None, Some(9)]);
    assert!(message(&[keep_none]).contains("makes a checkpoint that is kept"));
}

#[test]
fn evaluators_of_token_files_are_measured_and_tasks_are_not() {
    let evaluators = "evaluators=[
        {label: all, data: {num_workers: 1, drop_last: true, datasets: {c4: [a.npy], pile: [b.npy, a.npy]}}},
        {label: some, type: lm, subset_num_batches: 3, device_eval_batch_size: 2, data: {paths: [c.npy], seed: 7, memmap_dtype: uint32, num_workers: 2}},
        {label: whole, subset_num_batches: -1, device_eval_batch_size: 0, data: {paths: [c.npy]}},
        {label: piqa, type: downstream}, {label: sciq, type: downstream}]";
    let translated = |overrides: &[&str]| {
        let all: Vec<&str> = [evaluators].into_iter().chain(overrides.iter().copied()).collect();
        translated(&all).expect("sound")
    };
    let Translation { config, notes } = translated(&["eval_subset_num_batches=9", "seed=3"]);
    assert_eq!((&config["eval_interval"], &config["eval_on_load"]), (&json!(1000), &json!(false)));
    let expected = json!([
        {"label": "all", "datasets": {"c4": ["a.npy"], "pile": ["b.npy", "a.npy"]}, "memmap_dtype": "uint16",
            "device_eval_batch_size": 16, "subset_num_batches": 9, "seed": 3},
        {"label": "some", "datasets": {"some": ["c.npy"]}, "memmap_dtype": "uint32",
            "device_eval_batch_size": 2, "subset_num_batches": 3, "seed": 7},
        {"label": "whole", "datasets": {"whole": ["c.npy"]}, "memmap_dtype": "uint16",
            "device_eval_batch_size": 16, "subset_num_batches": null, "seed": 3},
    ]);
    assert_eq!(config["evaluators"], expected);
    let told = |field: &str| {
        let of_it: Vec<_> = notes.iter().filter(|note| note.field == field).collect();
        assert_eq!(of_it.len(), 1, "{field}: {notes:?}");
        of_it[0].reason.clone()
    };
    assert!(told("evaluators").ends_with("piqa, sciq"));
    assert!(told("evaluators.data.num_workers").contains("loader"));

    let more = ["eval_interval=${save_interval}", "save_interval=5", "eval_on_load=true"];
    let config = translated(&[&more[..], &["device_eval_batch_size=4"]].concat()).config;
    assert_eq!((&config["eval_interval"], &config["eval_on_load"]), (&json!(5), &json!(true)));
    assert_eq!(config["evaluators"][0]["device_eval_batch_size"], 4);
    assert_eq!(config["evaluators"][0]["subset_num_batches"], Value::Null);
}

#[test]
fn without_evaluators_of_token_files_there_is_nothing_to_measure() {
    for evaluators in ["evaluators=[]", "evaluators=[{label: piqa, type: downstream}]"] {
        let Translation { config, notes } =
            translated(&[evaluators, "eval_interval=10", "eval_on_load=true"]).expect("sound");
        assert!(config.get("evaluators").is_none() && config.get("eval_interval").is_none());
        for field in ["eval_interval", "eval_on_load"] {
            assert!(notes.iter().any(|note| note.field == field), "{field}: {notes:?}");
        }
    }
}

#[test]
fn evaluators_that_cannot_be_followed_are_refused_with_the_reason() {
    for (wrong, part) in [
        ("{label: a}", "evaluators.0 (a): data needs one of paths and datasets"),
        ("{label: a, data: {paths: [b], datasets: {c: [d]}}}", "needs one of"),
        ("{data: {paths: [b]}}", "evaluators.0: missing field `label`"),
        ("{label: a, kind: lm, data: {paths: [b]}}", "unknown field `kind`"),
        ("{label: a, type: ppl, data: {paths: [b]}}", "evaluators.0.type: unknown variant `ppl`"),
        ("{label: a, data: {paths: [b], pths: [c]}}", "unknown field `pths`"),
        ("{label: a, data: {paths: [b], label_mask_paths: [c]}}", "data.label_mask_paths is there"),
        ("{label: a, data: {paths: [b], instance_filter: {}}}", "data.instance_filter is there"),
        (
            "{label: a, data: {paths: [b], generate_doc_lengths: true}}",
            "keep documents from seeing",
        ),
        ("{label: a, data: {paths: [b], seed: -1}}", "data.seed is below 0"),
        ("{label: a, data: {paths: [b]}, subset_num_batches: x}", "subset_num_batches is \"x\""),
        ("{label: a, data: {paths: [b]}, device_eval_batch_size: -2}", "expected at least 1"),
    ] {
        let message = message(&[&format!("evaluators=[{wrong}]")]);
        assert!(message.contains(part), "{wrong}: {message}");
    }
    let list = message(&["evaluators={label: a}", "eval_subset_num_batches=x"]);
    assert!(list.contains("expected a list") && list.contains("-1 for all batches"), "{list}");
    let overrides = [
        "evaluators=[{label: a, data: {datasets: {c4: [b]}}}, {label: d, data: {datasets: {c4: [e]}}}]",
    ];
    let two =
        TrainConfig::parse(YAML, &overrides.map(String::from), "run.yaml").expect_err("one name");
    assert!(two.to_string().contains("evaluators.1 measures \"c4\""), "{two}");
}
