//! Memory that does not suffice: said before what cannot fit begins, and what to change where a device runs
//! out of it.

mod available;

use std::any::Any;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};

use anyhow::{Result, bail};
use olmo_model::{Costs, ModelConfig, Sharding};
use olmo_train::TrainConfig;
use olmo_train::step::Precision;

use self::available::available_bytes;
use crate::device::DeviceName;
use crate::output;

/// What a run can be made smaller by, the cheapest first.
const OF_A_RUN: &str = "make device_train_microbatch_size smaller (the steps stay the same), give \
activations=recompute, precision=amp_bf16 on a GPU, a shorter data.sequence_length, or a smaller model; \
`olmo model show` tells what a model takes";

/// A device's memory does not suffice: for what, and what to change.
#[derive(Debug)]
pub(crate) struct OutOfMemory {
    lacking: String,
    advice: String,
}

impl OutOfMemory {
    pub(crate) fn new(lacking: String, advice: impl Into<String>) -> Self {
        Self { lacking, advice: advice.into() }
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "out of memory: {}; {}", self.lacking, self.advice)
    }
}

impl std::error::Error for OutOfMemory {}

/// Memory that a device on the CPU has left; of others, and where the system does not tell, it is not known.
pub(crate) fn free_for(device: DeviceName) -> Option<u64> {
    let is_cpu = ["flex", "tch"].contains(&device.to_string().as_str());
    if is_cpu { available_bytes() } else { None }
}

/// Refuses a run on the CPU that cannot fit, see [`check_model`].
pub(crate) fn check_run(config: &TrainConfig, device: DeviceName) -> Result<()> {
    check_model(&config.model, config.precision, device, OF_A_RUN)
}

/// Refuses to train a model on the CPU whose weights, gradients and moments alone are more than the
/// memory that is free. Where that is not known, nothing is refused.
pub(crate) fn check_model(
    model: &ModelConfig,
    precision: Precision,
    device: DeviceName,
    advice: &'static str,
) -> Result<()> {
    let Some(available) = free_for(device) else { return Ok(()) };
    let mixed = precision == Precision::AmpBf16;
    let needed = Costs::new(model).train_bytes_per_device(Sharding::Single, 1, mixed);
    if needed > available {
        let (needed, available) = (output::bytes(needed), output::bytes(available));
        let message = format!(
            "weights, gradients and the optimizer's state take {needed}, and {available} are free"
        );
        bail!(OutOfMemory::new(message, advice));
    }
    Ok(())
}

/// Runs something, and explains a panic that is a device's about its memory; others go on.
pub(crate) fn explained<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T>
where
    anyhow::Error: From<E>,
{
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Ok(result?),
        Err(payload) => match said(payload.as_ref()) {
            Some(message) if is_about_memory(message) => {
                let message = message.lines().next().unwrap_or(message).to_owned();
                bail!(OutOfMemory::new(message, OF_A_RUN))
            }
            _ => panic::resume_unwind(payload),
        },
    }
}

fn said(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied())
}

/// Whether a message is what CUDA, HIP, wgpu, libtorch or burn say where memory does not suffice.
fn is_about_memory(message: &str) -> bool {
    let message = message.to_lowercase();
    ["out of memory", "out_of_memory", "outofmemory", "bufferallocationfailed", "not enough memory"]
        .iter()
        .any(|said| message.contains(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_about_memory_are_explained() {
        let panics = |message: &'static str| {
            explained::<(), anyhow::Error>(|| panic::panic_any(message.to_owned()))
        };
        let error = panics("CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"\nmore").expect_err("it is");
        let text = error.to_string();
        assert!(
            error.is::<OutOfMemory>() && text.contains("device_train_microbatch_size"),
            "{text}"
        );
        let other = panic::catch_unwind(|| panics("index out of bounds"));
        assert_eq!(said(other.expect_err("goes on").as_ref()), Some("index out of bounds"));
        assert_eq!(explained::<_, anyhow::Error>(|| Ok(7)).expect("no panic"), 7);
    }
}
