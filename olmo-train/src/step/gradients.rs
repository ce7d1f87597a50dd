//! Summed gradients by parameter path.

use std::collections::BTreeMap;

use burn::tensor::{FloatDType, Tensor};

/// Gradients of one step, flat and f32, summed over micro-batches.
#[derive(Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor<1>>);

impl Gradients {
    /// No gradients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `gradient` to the sum of the parameter at `path`, in f32 whatever its dtype.
    pub fn add(&mut self, path: &str, gradient: Tensor<1>) {
        let gradient = gradient.cast(FloatDType::F32);
        let sum = match self.0.remove(path) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        self.0.insert(path.to_owned(), sum);
    }

    /// Takes the sum of the parameter at `path`.
    pub fn take(&mut self, path: &str) -> Option<Tensor<1>> {
        self.0.remove(path)
    }

    /// The sums by path, in the order of paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<1>)> {
        self.0.iter().map(|(path, sum)| (path.as_str(), sum))
    }
}
