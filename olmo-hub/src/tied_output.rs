//! Checkpoints that hold the output projection although it is the embedding.

use crate::error::{Error, Result};
use crate::read::ModelFolder;
use crate::values::Stored;

/// Elements of the two that are compared at a time.
const COMPARED: usize = 1 << 20;

impl ModelFolder {
    /// With tied weights, an output projection in the file must be the embedding.
    pub(crate) fn check_tied_output(&self) -> Result<()> {
        let [output_name, embedding_name] = self.layout().ends();
        if !self.model_config().weight_tying || !self.has_tensor(output_name) {
            return Ok(());
        }
        let output = self.stored_tensor(output_name)?;
        let embedding = self.stored_tensor(embedding_name)?;
        let differ_at = |index| {
            let (path, tensor) = (self.file_of(output_name), output_name.to_owned());
            Err(Error::TiedHead { path, tensor, index })
        };
        let n_elements = output.n_elements.min(embedding.n_elements);
        for first in (0..n_elements).step_by(COMPARED) {
            let values = |stored: Stored<'_>, name: &str| {
                let part = stored.part(first, COMPARED.min(n_elements - first));
                part.any_f32().map_err(|error| self.tensor_error(name, error))
            };
            let output = values(output, output_name)?;
            let embedding = values(embedding, embedding_name)?;
            let differ = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if let Some(index) = output.iter().zip(&embedding).position(differ) {
                return differ_at(first + index);
            }
        }
        if output.n_elements == embedding.n_elements { Ok(()) } else { differ_at(n_elements) }
    }
}
