//! Golden tests: this crate against vectors that the reference packages made.
//!
//! The vectors lie in `tests/golden` at the root of the repository; `scripts/golden` makes them and
//! says what each tensor is. Everything runs on the CPU backend `flex`. What is here reads a file,
//! maps Hugging Face's names and fields to ours (`olmo-hub` does so for users, with checks), and
//! measures differences.

mod batches;
mod beams;
mod bf16;
mod experts;
mod gradients;
mod init;
mod layers;
mod models;
mod packed;
mod sampling;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::config::{AttentionConfig, FeedForwardConfig, NormCast, NormConfig, NormPlacement};
use crate::config::{RopeConfig, SlidingWindow, YarnConfig};
use crate::{Error, ModelConfig, Transformer};

/// The tensors of one file, and the `config.json` fields in its metadata where it has them.
struct Vectors {
    config: Value,
    tensors: BTreeMap<String, TensorData>,
}

impl Vectors {
    /// Reads a file under `tests/golden`.
    fn read(relative: &str) -> Self {
        let bytes = std::fs::read(path(relative)).expect(relative);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect(relative);
        let text = metadata.metadata().as_ref().and_then(|entries| entries.get("config"));
        let config = text.map_or(Value::Null, |text| serde_json::from_str(text).expect(relative));
        let file = SafeTensors::deserialize(&bytes).expect(relative);
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::I64 => DType::I64,
                other => panic!("{relative}: {name} is {other:?}"),
            };
            let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape(), dtype);
            (name, data)
        });
        Self { config, tensors: tensors.collect() }
    }

    fn data(&self, name: &str) -> TensorData {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).clone()
    }

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.data(name), device)
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.data(name).try_into_vec().expect("f32")
    }

    /// The rows of a tensor of integers `[rows, columns]`.
    fn integer_rows<T: TryFrom<i64>>(&self, name: &str) -> Vec<Vec<T>> {
        let data = self.data(name);
        let columns = data.shape()[1];
        let values: Vec<i64> = data.try_into_vec().expect("i64");
        let convert = |&value: &i64| T::try_from(value).ok().expect("in range");
        values.chunks(columns).map(|row| row.iter().map(convert).collect()).collect()
    }

    /// A model whose parameters are those of the file, named as Hugging Face names them.
    fn model(&self, config: &ModelConfig, device: &Device) -> Transformer {
        let source = |parameter: &crate::Parameter| {
            Ok::<_, Error>(self.data(&key(&parameter.path, config.norm_placement)))
        };
        Transformer::build(config, device, source).expect("a sound configuration")
    }
}

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(relative)
}

fn read_json(relative: &str) -> Value {
    let text = std::fs::read_to_string(path(relative)).expect(relative);
    serde_json::from_str(&text).expect(relative)
}

/// The architecture that `config.json` describes, as transformers 4 or 5 wrote it.
fn model_config(json: &Value) -> ModelConfig {
    let size = |key: &str| json[key].as_u64().expect(key) as usize;
    let (d_model, n_heads) = (size("hidden_size"), size("num_attention_heads"));
    let family = json["model_type"].as_str().expect("model_type");
    let before = matches!(family, "olmo" | "olmoe");
    let cast = if family == "olmoe" { NormCast::BeforeWeight } else { NormCast::AfterWeight };
    ModelConfig {
        d_model,
        n_layers: size("num_hidden_layers"),
        vocab_size: size("vocab_size"),
        max_sequence_length: size("max_position_embeddings"),
        attention: AttentionConfig {
            n_heads,
            n_kv_heads: size("num_key_value_heads"),
            head_dim: d_model / n_heads,
            qk_norm: family != "olmo",
            clip_qkv: json["clip_qkv"].as_f64(),
            rope: rope_config(json),
            window: window(json),
        },
        feed_forward: match family {
            "olmoe" => FeedForwardConfig::Experts {
                hidden_size: size("intermediate_size"),
                n_experts: size("num_experts"),
                top_k: size("num_experts_per_tok"),
                normalize_top_k: json["norm_topk_prob"].as_bool().expect("norm_topk_prob"),
            },
            _ => FeedForwardConfig::Swiglu { hidden_size: size("intermediate_size") },
        },
        norm: match json["rms_norm_eps"].as_f64() {
            Some(eps) => NormConfig::RmsNorm { eps, cast },
            None => NormConfig::LayerNorm { eps: 1e-5 },
        },
        norm_placement: if before { NormPlacement::Before } else { NormPlacement::After },
        weight_tying: json["tie_word_embeddings"].as_bool().expect("tie_word_embeddings"),
    }
}

fn rope_config(json: &Value) -> RopeConfig {
    let parameters = &json["rope_parameters"];
    // OLMo 3 has them by the type of layer; those of windowed layers follow from the others.
    let parameters = parameters.get("full_attention").unwrap_or(parameters);
    let theta = parameters["rope_theta"].as_f64().or(json["rope_theta"].as_f64());
    let real = |key: &str| parameters[key].as_f64();
    let yarn = (parameters["rope_type"] == "yarn").then(|| YarnConfig {
        factor: real("factor").expect("factor"),
        beta_fast: real("beta_fast").expect("beta_fast"),
        beta_slow: real("beta_slow").expect("beta_slow"),
        original_max_sequence_length: real("original_max_position_embeddings").expect("a length")
            as usize,
        attention_factor: real("attention_factor"),
    });
    let full_precision = json["model_type"] != "olmoe";
    RopeConfig { theta: theta.expect("rope_theta"), yarn, full_precision }
}

fn window(json: &Value) -> Option<SlidingWindow> {
    let types = json["layer_types"].as_array()?;
    let first_full = types.iter().position(|name| name == "full_attention");
    let full_every = first_full.map_or(types.len() + 1, |at| at + 1);
    let size = json["sliding_window"].as_u64().expect("sliding_window") as usize;
    (full_every > 1).then_some(SlidingWindow { size, full_every })
}

/// Hugging Face's key of one of our parameters, in a model whose norms stand before or after.
fn key(path: &str, placement: NormPlacement) -> String {
    const NAMES: [(&str, &str); 13] = [
        ("embeddings.", "model.embed_tokens."),
        ("lm_head.norm.", "model.norm."),
        ("lm_head.w_out.", "lm_head."),
        ("blocks.", "model.layers."),
        ("attention.w_q.", "self_attn.q_proj."),
        ("attention.w_k.", "self_attn.k_proj."),
        ("attention.w_v.", "self_attn.v_proj."),
        ("attention.w_out.", "self_attn.o_proj."),
        ("attention.", "self_attn."),
        ("feed_forward.", "mlp."),
        ("w1.", "gate_proj."),
        ("w2.", "down_proj."),
        ("w3.", "up_proj."),
    ];
    let norms = match placement {
        NormPlacement::Before => ["input_layernorm", "post_attention_layernorm"],
        NormPlacement::After => ["post_attention_layernorm", "post_feedforward_layernorm"],
    };
    let path = path.replace("feed_forward_norm", norms[1]).replace("attention_norm", norms[0]);
    let path = path.replace("router.", "gate.");
    NAMES.iter().fold(path, |path, (ours, theirs)| path.replace(ours, theirs))
}

/// Differences from what was expected, each relative to the largest expected magnitude of its tensor.
#[derive(Default)]
struct Differences(Vec<(String, f64)>);

impl Differences {
    fn add<const D: usize>(&mut self, name: &str, found: Tensor<D>, expected: &TensorData) {
        let (found, expected) = (floats(&found.into_data()), floats(expected));
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
        // A NaN must not look like no difference, as it does to `f64::max`.
        let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let worst = apart.fold(0.0_f64, |max, d| if d <= max { max } else { d });
        self.0.push((name.to_owned(), if worst == 0.0 { 0.0 } else { worst / largest }));
    }

    /// Fails where a difference is above `tolerance`, naming the largest first.
    fn assert_within(mut self, tolerance: f64) {
        assert!(!self.0.is_empty(), "nothing was compared");
        self.0.sort_by(|a, b| b.1.total_cmp(&a.1));
        let list: Vec<_> =
            self.0.iter().take(8).map(|(name, d)| format!("{name} {d:.1e}")).collect();
        let within = self.0.iter().all(|(_, d)| *d <= tolerance);
        assert!(within, "above {tolerance:.1e} of the largest: {}", list.join(", "));
    }
}

fn floats(data: &TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}
