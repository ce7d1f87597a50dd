//! How the weights of a model are held while it runs: the options of it, the bytes that it takes, loading.

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use olmo_hub::{Dtype, ModelFolder};
use olmo_model::{MatrixForm, Parameter, Quantization, Transformer, check_dtype};

use crate::device::DeviceName;
use crate::memory::{self, OutOfMemory};
use crate::output;

/// How the weights of a model are held while it runs.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Weights {
    /// What to hold weights in and compute in; `auto` is the dtype of the files, or f32 where the device
    /// does not compute in it; bf16 halves the memory
    #[arg(long, value_enum, default_value = "f32")]
    dtype: ComputeDtype,
    /// Hold weights in 8 or 4 bits and multiply them with activations in 8 bits, on the CPU;
    /// `olmo verify --quantize` tells the error of the weights
    #[arg(long, value_enum, value_name = "BITS", conflicts_with = "dtype")]
    quantize: Option<QuantizationName>,
}

/// The dtype that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComputeDtype {
    Auto,
    F32,
    Bf16,
    F16,
}

/// How many bits a weight has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuantizationName {
    Q8,
    Q4,
}

impl From<QuantizationName> for Quantization {
    fn from(name: QuantizationName) -> Self {
        match name {
            QuantizationName::Q8 => Self::Q8,
            QuantizationName::Q4 => Self::Q4,
        }
    }
}

impl Weights {
    /// The quantisation asked for.
    pub(crate) fn quantization(self) -> Option<Quantization> {
        self.quantize.map(Into::into)
    }

    /// Bytes that those parameters of a model take for which `counts` is true.
    pub(crate) fn bytes(
        self,
        folder: &ModelFolder,
        device: &Device,
        counts: impl Fn(&Parameter) -> bool,
    ) -> Result<u64> {
        let config = folder.model_config();
        let dtype = self.dtype(folder, device);
        let mut bytes = 0_u64;
        for parameter in config.parameters().iter().filter(|parameter| counts(parameter)) {
            bytes = bytes.saturating_add(match self.quantization() {
                Some(to) => {
                    MatrixForm::Quantized(to).bytes(parameter, config, device, dtype.into())
                }
                None => folder.bytes_to_run(parameter, device, Some(dtype))?,
            });
        }
        Ok(bytes)
    }

    /// Refuses a model whose weights alone are more than the memory that is free, which the system would
    /// end the process for; what comes on top is small beside them. Where it is not known what is free,
    /// nothing is refused.
    fn check_fit(
        self,
        folder: &ModelFolder,
        device: &Device,
        available: Option<u64>,
    ) -> Result<()> {
        let Some(available) = available else { return Ok(()) };
        let needed = self.bytes(folder, device, |_| true)?;
        if needed <= available {
            return Ok(());
        }
        let mut smaller = Vec::new();
        for (option, other) in Self::SMALLER {
            let bytes = other.bytes(folder, device, |_| true)?;
            if bytes < needed && other.is_possible(folder, device) {
                smaller.push((option, bytes));
            }
        }
        let lacking = format!(
            "the weights take {}, and {} are free",
            output::bytes(needed),
            output::bytes(available)
        );
        bail!(OutOfMemory::new(lacking, what_would_fit(&smaller, available)))
    }

    /// What takes less than f32, by the options that ask for it, the most exact first.
    const SMALLER: [(&str, Self); 3] = [
        ("--dtype bf16", Self { dtype: ComputeDtype::Bf16, quantize: None }),
        ("--quantize q8", Self { dtype: ComputeDtype::F32, quantize: Some(QuantizationName::Q8) }),
        ("--quantize q4", Self { dtype: ComputeDtype::F32, quantize: Some(QuantizationName::Q4) }),
    ];

    /// Whether a device can run a model so.
    fn is_possible(self, folder: &ModelFolder, device: &Device) -> bool {
        match self.quantization() {
            Some(to) => to.check(folder.model_config(), device).is_ok(),
            None => check_dtype(device, self.dtype(folder, device).into()).is_ok(),
        }
    }

    /// What a model of this folder computes in on a device.
    fn dtype(self, folder: &ModelFolder, device: &Device) -> Dtype {
        match (self.quantize, self.dtype) {
            (Some(_), _) | (None, ComputeDtype::F32) => Dtype::F32,
            (None, ComputeDtype::Bf16) => Dtype::Bf16,
            (None, ComputeDtype::F16) => Dtype::F16,
            (None, ComputeDtype::Auto) => {
                let stored = folder.stored_dtype();
                if check_dtype(device, stored.into()).is_ok() { stored } else { Dtype::F32 }
            }
        }
    }
}

/// What to do where `available` bytes are not enough, of the options that take less.
fn what_would_fit(smaller: &[(&str, u64)], available: u64) -> String {
    let told = |(option, bytes): &(&str, u64)| format!("{option} takes {}", output::bytes(*bytes));
    let fitting: Vec<_> =
        smaller.iter().filter(|(_, bytes)| *bytes <= available).map(told).collect();
    if !fitting.is_empty() {
        return fitting.join(", ");
    }
    let smallest = smaller.iter().min_by_key(|(_, bytes)| bytes);
    let but = smallest.map_or(String::new(), |smallest| format!("even {}; ", told(smallest)));
    format!("{but}free memory or choose a smaller model; `olmo model show` tells what one takes")
}

/// Reads a model's weights to a device, to run it.
///
/// # Errors
///
/// Before anything is read where they cannot fit; what loading says.
pub(crate) fn load(
    folder: &ModelFolder,
    name: DeviceName,
    weights: Weights,
) -> Result<Transformer> {
    crate::allocator::share_buffers();
    let device = name.open()?;
    weights.check_fit(folder, &device, memory::free_for(name))?;
    let bar = crate::progress::open_ended("loading the model");
    let model = match weights.quantization() {
        Some(quantization) => folder.load_quantized(&device, quantization)?,
        None => folder.load_to_run(&device, Some(weights.dtype(folder, &device)))?,
    };
    bar.finish_and_clear();
    crate::program_pages::give_back();
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_fits_is_offered_and_else_what_comes_nearest_is_told() {
        let smaller =
            [("--dtype bf16", 4 * GIB), ("--quantize q8", 2 * GIB), ("--quantize q4", GIB)];
        assert_eq!(
            what_would_fit(&smaller, 2 * GIB),
            "--quantize q8 takes 2.00 GiB, --quantize q4 takes 1.00 GiB"
        );
        let none = what_would_fit(&smaller, GIB - 1);
        assert!(none.starts_with("even --quantize q4 takes 1.00 GiB; free memory"), "{none}");
        assert!(what_would_fit(&[], GIB).starts_with("free memory or choose a smaller model"));
    }

    /// A model of which nothing but the weights is counted fits into exactly as much as they take.
    #[test]
    fn a_model_is_refused_by_a_byte() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder =
            ModelFolder::open(path.join("../tests/golden/hf/olmo2-gqa-bf16")).expect("golden");
        let device = Device::flex();
        let f32 = Weights { dtype: ComputeDtype::F32, quantize: None };
        let needed = f32.bytes(&folder, &device, |_| true).expect("all are there");
        for (available, fits) in [(None, true), (Some(needed), true), (Some(needed - 1), false)] {
            let checked = f32.check_fit(&folder, &device, available);
            assert_eq!(checked.is_ok(), fits);
        }
        let error = f32.check_fit(&folder, &device, Some(needed - 1)).expect_err("by a byte");
        assert!(error.is::<OutOfMemory>());
        assert!(error.to_string().contains("; --dtype bf16 takes "), "{error}");
    }
}
