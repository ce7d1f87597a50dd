//! Whether tensors fit each other: dtype, length, device.

use burn::tensor::{DType, Tensor};

use crate::{Error, UpdateOptions};

/// Weight and gradient of an update without autodiff, checked, as are the options.
pub(crate) fn checked(
    path: &str,
    weight: Tensor<1>,
    grad: Tensor<1>,
    options: &UpdateOptions,
) -> Result<(Tensor<1>, Tensor<1>), Error> {
    options.validate()?;
    let (weight, grad) = (weight.inner(), grad.inner());
    check_dtype(path, "weight", &weight)?;
    check_like(path, "grad", &grad, &weight)?;
    Ok((weight, grad))
}

pub(crate) fn check_dtype(path: &str, name: &str, tensor: &Tensor<1>) -> Result<(), Error> {
    if tensor.dtype() == DType::F32 {
        return Ok(());
    }
    let found = format!("{:?}", tensor.dtype()).to_lowercase();
    Err(Error::DType { path: path.to_owned(), tensor: name.to_owned(), found })
}

/// That `tensor` is f32 and has the length and the device of `weight`.
pub(crate) fn check_like(
    path: &str,
    name: &str,
    tensor: &Tensor<1>,
    weight: &Tensor<1>,
) -> Result<(), Error> {
    check_dtype(path, name, tensor)?;
    let (path, name) = (path.to_owned(), name.to_owned());
    let ([expected], [found]) = (weight.dims(), tensor.dims());
    if expected != found {
        return Err(Error::Length { path, tensor: name, expected, found });
    }
    let (expected, found) = (weight.device(), tensor.device());
    if expected != found {
        let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
        return Err(Error::Device { path, tensor: name, expected, found });
    }
    Ok(())
}

/// The state tensors of one parameter in the order of `names`, whatever the order they came in.
pub(crate) fn take_named<const N: usize>(
    path: &str,
    names: [&str; N],
    tensors: Vec<(String, Tensor<1>)>,
) -> Result<[Tensor<1>; N], Error> {
    let mut tensors = tensors;
    let place = |name: &str| names.iter().position(|known| *known == name).unwrap_or(N);
    tensors.sort_by_key(|(name, _)| place(name));
    let found: Vec<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
    if found != names {
        let expected = names.iter().map(ToString::to_string).collect();
        return Err(Error::StateNames { path: path.to_owned(), expected, found });
    }
    let tensors: Vec<Tensor<1>> = tensors.into_iter().map(|(_, tensor)| tensor).collect();
    tensors.try_into().map_err(|_| Error::StateNames {
        path: path.to_owned(),
        expected: names.iter().map(ToString::to_string).collect(),
        found: Vec::new(),
    })
}
