//! What the cross-crate checks share: golden vectors and small models.

#![allow(clippy::missing_panics_doc, reason = "a check that cannot go on stops the test")]

pub mod fuzz;
pub mod stand_in;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use olmo_hub::{Family, HfConfig};
use olmo_model::{ModelConfig, Transformer};
use safetensors::{Dtype, SafeTensors};

/// The workspace's root: where it was built, or `OLMO_ROOT` on another machine.
pub fn root() -> PathBuf {
    env::var_os("OLMO_ROOT").map_or_else(
        || {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .parent()
                .expect("tests/ is in the root")
                .to_owned()
        },
        PathBuf::from,
    )
}

/// A file or folder of golden vectors.
pub fn golden(relative: &str) -> PathBuf {
    root().join("tests/golden").join(relative)
}

/// The tensors and the metadata of one golden file.
#[derive(Debug)]
pub struct Golden {
    bytes: Vec<u8>,
    path: PathBuf,
    metadata: HashMap<String, String>,
}

impl Golden {
    /// Reads a file under `tests/golden`.
    pub fn open(relative: &str) -> Self {
        let path = golden(relative);
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let metadata = header.metadata().clone().unwrap_or_default();
        Self { bytes, path, metadata }
    }

    /// The file's metadata of that name, as JSON.
    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.metadata[name]).expect("JSON in the metadata")
    }

    /// The architecture and family that its `config` metadata gives.
    pub fn config(&self) -> HfConfig {
        HfConfig::parse(&self.metadata["config"], &self.path).expect("a sound config")
    }

    /// Floats, whatever their width.
    pub fn floats(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => chunks::<4>(data).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            Dtype::F64 => chunks::<8>(data).map(f64::from_le_bytes).collect(),
            other => panic!("{name} is {other:?}, not a float"),
        }
    }

    /// Floats as f32.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.floats(name).into_iter().map(|x| x as f32).collect()
    }

    /// Token ids or labels.
    pub fn ints(&self, name: &str) -> Vec<i64> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::I32 => chunks::<4>(data).map(|b| i64::from(i32::from_le_bytes(b))).collect(),
            Dtype::I64 => chunks::<8>(data).map(i64::from_le_bytes).collect(),
            other => panic!("{name} is {other:?}, not an integer"),
        }
    }

    /// Token ids.
    pub fn tokens(&self, name: &str) -> Vec<u32> {
        self.ints(name).into_iter().map(|id| u32::try_from(id).expect("an id")).collect()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.tensors().names().into_iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).expect(name).shape().to_vec()
    }

    /// The model whose weights stand under `prefix` and their Hugging Face names.
    pub fn model(&self, prefix: &str, device: &Device) -> Transformer {
        let HfConfig { family, model, .. } = self.config();
        Transformer::build::<olmo_model::Error>(&model, device, |parameter| {
            let name = format!("{prefix}{}", hf_name(family, &parameter.path));
            Ok(TensorData::new(self.f32(&name), parameter.shape.clone()))
        })
        .expect("a sound config")
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }
}

/// The devices that parity is checked on, by name: `flex` and those of the features, or the one that
/// `OLMO_TEST_DEVICE` names.
pub fn devices() -> Vec<(&'static str, Device)> {
    let only = env::var("OLMO_TEST_DEVICE").ok();
    let mut devices = all_devices();
    devices.retain(|(name, _)| only.as_deref().is_none_or(|only| only == *name));
    assert!(!devices.is_empty(), "the tests are not compiled for {only:?}");
    devices
}

fn all_devices() -> Vec<(&'static str, Device)> {
    vec![
        ("flex", Device::flex()),
        #[cfg(feature = "wgpu")]
        ("wgpu", Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        ("cuda", Device::cuda(0)),
        #[cfg(feature = "rocm")]
        ("rocm", Device::rocm(0)),
        #[cfg(feature = "tch")]
        #[allow(deprecated, reason = "burn marks its LibTorch backend as deprecated; we offer it")]
        ("tch", Device::libtorch()),
    ]
}

/// Whether products of f32 on the device may go through a narrower format on tensor cores, as burn's
/// kernels for CUDA and ROCm do; results then differ by about a thousandth.
pub fn is_narrow(device_name: &str) -> bool {
    matches!(device_name, "cuda" | "rocm")
}

/// The Hugging Face name of a parameter, or its path where no family has the model.
pub fn hf_name(family: Option<Family>, path: &str) -> String {
    let Some(family) = family else { return path.to_owned() };
    family.hf_name(path).unwrap_or_else(|| panic!("{path} has no Hugging Face name"))
}

/// The parameters of a model by path, as bits.
pub fn weights(model: &Transformer) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    model.visit_parameters(|path, _, values| {
        all.push((path.to_owned(), values.into_data().iter::<f32>().collect()));
    });
    all
}

/// Largest difference over the largest magnitude of `expected`.
pub fn relative_difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).fold(0.0_f64, |worst, (a, b)| {
        let difference = (f64::from(*a) - f64::from(*b)).abs();
        // A NaN must not pass for a small difference.
        if difference.is_nan() { f64::INFINITY } else { worst.max(difference) }
    });
    if worst == 0.0 { 0.0 } else { worst / f64::from(largest) }
}

/// Small architectures that between them use every path of the model.
pub fn small_models() -> Vec<(&'static str, ModelConfig)> {
    use olmo_model::presets::{olmo_20m, small_olmo, small_olmo2, small_olmo3, small_olmoe};
    let mut tied = small_olmo(32, 2, 4, 61);
    tied.weight_tying = true;
    tied.attention.clip_qkv = Some(0.4);
    // AI2's blocks of 20M parameters.
    let no_family = ModelConfig { norm: olmo_20m().norm, ..small_olmo(32, 2, 4, 64) };
    let mut grouped = small_olmo2(32, 3, 4, 67);
    grouped.attention.n_kv_heads = 2;
    vec![
        ("olmo", small_olmo(32, 2, 4, 64)),
        ("olmo tied", tied),
        ("of no family", no_family),
        ("olmo2 grouped", grouped),
        ("olmo3", small_olmo3(32, 4, 4, 64, 7)),
        ("olmoe", small_olmoe(32, 2, 4, 64, 6, 2)),
    ]
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    let (chunks, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty(), "whole elements");
    chunks.iter().copied()
}

/// Has a command hear signals that these tests were started to ignore, as what a shell runs in the background is.
#[cfg(unix)]
pub fn hearing(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt as _;
    let hear = || {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the action is the system's own, and may be set between fork and exec.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: nothing but the calls above is done there.
    unsafe { command.pre_exec(hear) }
}
