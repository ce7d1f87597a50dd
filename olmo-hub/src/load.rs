//! A model folder as a [`Transformer`]: tensor by tensor straight into the model's own buffers, in whatever
//! dtype and form is asked for. Beyond the model, a load holds one tensor.

use burn::tensor::Device;
use olmo_model::{MatrixForm, Parameter, Quantization, Transformer};

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::read::ModelFolder;

impl ModelFolder {
    /// Loads the model, in [`stored_dtype`](Self::stored_dtype) where `dtype` is `None`.
    /// Narrowing rounds to nearest, ties to even. This is the model to train or to save; to run
    /// one, use [`load_to_run`](Self::load_to_run).
    ///
    /// # Errors
    ///
    /// [`Error::Value`] with the first value that is not finite or does not fit `dtype`;
    /// [`Error::TiedHead`]; [`Error::Io`]; [`Error::Model`] where the model cannot be built.
    pub fn load(&self, device: &Device, dtype: Option<Dtype>) -> Result<Transformer> {
        let dtype = dtype.unwrap_or_else(|| self.stored_dtype());
        self.build(device, Some(dtype), MatrixForm::Dense)
    }

    /// Loads the model to run it and not to train it: on the CPU, matrices are laid out as its
    /// kernels read them, which makes the next token several times faster. The numbers are those of
    /// [`load`](Self::load), and so is the memory, or less: to compute in f32, matrices stay in the
    /// dtype of the file. [`Transformer::visit_parameters`] does not see them.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_to_run(&self, device: &Device, dtype: Option<Dtype>) -> Result<Transformer> {
        let (dtype, form) = self.to_run(dtype);
        self.build(device, dtype, form)
    }

    /// Bytes of memory that a parameter takes in the model of [`load_to_run`](Self::load_to_run).
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`] and [`Error::TensorDtype`].
    pub fn bytes_to_run(
        &self,
        parameter: &Parameter,
        device: &Device,
        dtype: Option<Dtype>,
    ) -> Result<u64> {
        let (dtype, form) = self.to_run(dtype);
        let dtype = self.read_in(parameter, dtype)?;
        Ok(form.bytes(parameter, self.model_config(), device, dtype.into()))
    }

    /// The dtype that values are read in, their own where none is given, and the form of matrices.
    fn to_run(&self, dtype: Option<Dtype>) -> (Option<Dtype>, MatrixForm) {
        match dtype.unwrap_or_else(|| self.stored_dtype()) {
            Dtype::F32 => (None, MatrixForm::Widened),
            narrow => (Some(narrow), MatrixForm::Packed),
        }
    }

    fn read_in(&self, parameter: &Parameter, dtype: Option<Dtype>) -> Result<Dtype> {
        match dtype {
            Some(dtype) => Ok(dtype),
            None => Ok(self.stored(parameter)?.dtype),
        }
    }

    /// Loads the model to run it with its matrices in 8 or 4 bits an element.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); [`Error::Model`] also where a matrix cannot be quantised.
    pub fn load_quantized(&self, device: &Device, to: Quantization) -> Result<Transformer> {
        self.build(device, Some(Dtype::F32), MatrixForm::Quantized(to))
    }

    /// With every value in `dtype`, or in that of the file.
    fn build(
        &self,
        device: &Device,
        dtype: Option<Dtype>,
        form: MatrixForm,
    ) -> Result<Transformer> {
        self.check_tied_output()?;
        let config = self.model_config();
        let built = Transformer::build_as(config, device, form, |parameter, rows| {
            let dtype = self.read_in(parameter, dtype).map_err(BuildError::Hub)?;
            self.read_rows(parameter, rows, dtype).map_err(BuildError::Hub)
        });
        built.map_err(|error| match error {
            BuildError::Hub(error) => error,
            BuildError::Model(source) => Error::Model { path: self.path().to_owned(), source },
        })
    }
}

/// Carries an error of ours through [`Transformer::build`], which adds its own.
enum BuildError {
    Hub(Error),
    Model(olmo_model::Error),
}

impl From<olmo_model::Error> for BuildError {
    fn from(error: olmo_model::Error) -> Self {
        Self::Model(error)
    }
}
