//! Walking the parameters of a module by path.
//!
//! Everything outside the model sees parameters flat: a path, a shape and a one-dimensional tensor.
//! That is the form of checkpoints, optimizers and shards. The functions work on a whole
//! [`Transformer`], one block, or the head; paths are relative to what is walked.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Gradients, Tensor};

use crate::kernels;
use crate::transformer::Transformer;

impl Transformer {
    /// Calls `f(path, shape, values)` for each parameter in module order.
    pub fn visit_parameters(&self, f: impl FnMut(&str, &[usize], Tensor<1>)) {
        visit(self, f);
    }

    /// Replaces each parameter's values by `f(path, values)`, in module order.
    ///
    /// The handle that `f` receives is the only one, unless the caller holds others, so an update
    /// may happen in place.
    ///
    /// # Errors
    ///
    /// The first that `f` returns; the model, by then half replaced, is gone.
    ///
    /// # Panics
    ///
    /// When `f` returns another number of values than it was given.
    pub fn map_parameters<E>(
        self,
        f: impl FnMut(&str, Tensor<1>) -> Result<Tensor<1>, E>,
    ) -> Result<Self, E> {
        let mut mapper = Mapper { path: Path::default(), f, error: None };
        let model = self.map(&mut mapper);
        mapper.error.map_or(Ok(model), Err)
    }
}

/// Calls `f(path, shape, values)` for each parameter of `module` in module order.
pub fn visit(module: &impl Module, f: impl FnMut(&str, &[usize], Tensor<1>)) {
    module.visit(&mut Visitor { path: Path::default(), f });
}

/// A copy of `module` whose parameters are leaves of a new autodiff graph, in dtype `dtype`.
///
/// Where the dtype is already right, no values are copied.
#[must_use]
pub fn leaves<M: Module>(module: &M, dtype: FloatDType) -> M {
    module.clone().map(&mut Leaves(dtype))
}

/// Takes the gradient of each parameter of `module`, a copy made by [`leaves`], out of `gradients`, in f32
/// whatever the dtype of the copy.
///
/// Every parameter is reported, so that all ranks add up the same ones: one that took no part, such
/// as those of an expert that no token was sent to, with zeros.
pub fn take_gradients(
    module: &impl Module,
    gradients: &mut Gradients,
    f: impl FnMut(&str, Tensor<1>),
) {
    module.visit(&mut Taker { path: Path::default(), gradients, f });
}

/// The module names on the way to a parameter.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    /// `kind` is burn's name for what is entered. A variant of an enum is no part of the path: what
    /// stands in a field has the field's name, whichever of its forms it has.
    fn enter(&mut self, name: &str, kind: &str) {
        if !is_variant(kind) {
            self.0.push(name.to_owned());
        }
    }

    fn exit(&mut self, kind: &str) {
        if !is_variant(kind) {
            self.0.pop();
        }
    }

    fn dotted(&self) -> String {
        self.0.join(".")
    }
}

fn is_variant(kind: &str) -> bool {
    kind.starts_with("Enum:")
}

struct Visitor<F> {
    path: Path,
    f: F,
}

impl<F: FnMut(&str, &[usize], Tensor<1>)> ModuleVisitor for Visitor<F> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.path.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, kind: &str) {
        self.path.exit(kind);
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let value = parameter.val();
        (self.f)(&self.path.dotted(), &value.dims(), flat(value));
    }
}

struct Mapper<F, E> {
    path: Path,
    f: F,
    error: Option<E>,
}

impl<E, F: FnMut(&str, Tensor<1>) -> Result<Tensor<1>, E>> ModuleMapper for Mapper<F, E> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.path.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, kind: &str) {
        self.path.exit(kind);
    }

    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return parameter;
        }
        let path = self.path.dotted();
        parameter.map(|value| {
            let (shape, device) = (value.dims(), value.device());
            match (self.f)(&path, flat(value)) {
                Ok(new) => new.reshape(shape),
                Err(error) => {
                    // The values went with the error; whoever asked gets no model.
                    self.error = Some(error);
                    Tensor::zeros(shape, &device)
                }
            }
        })
    }
}

struct Leaves(FloatDType);

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        parameter.map(|value| kernels::cast(value.inner(), self.0).autodiff().require_grad())
    }
}

struct Taker<'a, F> {
    path: Path,
    gradients: &'a mut Gradients,
    f: F,
}

impl<F: FnMut(&str, Tensor<1>)> ModuleVisitor for Taker<'_, F> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.path.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, kind: &str) {
        self.path.exit(kind);
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let value = parameter.val();
        let gradient = value.grad_remove(self.gradients);
        let gradient = gradient.unwrap_or_else(|| value.inner().zeros_like());
        (self.f)(&self.path.dotted(), flat(kernels::cast(gradient, FloatDType::F32)));
    }
}

fn flat<const D: usize>(value: Tensor<D>) -> Tensor<1> {
    let n = value.shape().num_elements();
    value.reshape([n])
}
