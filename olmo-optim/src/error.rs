//! The errors of this crate.

/// What can be wrong with settings, gradients or optimizer state.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Settings that cannot work; every problem found is listed.
    #[error("invalid {what}: {}", problems.join("; "))]
    Invalid {
        /// What the settings are for, e.g. `AdamW configuration`.
        what: &'static str,
        /// One sentence for each problem.
        problems: Vec<String>,
    },
    /// A tensor has another number of elements than the weight it belongs to.
    #[error("{path}: {tensor} has {found} elements, expected {expected} as in the weight")]
    Length {
        /// The parameter.
        path: String,
        /// Which tensor: `grad`, or a state tensor's name.
        tensor: String,
        /// Elements of the weight.
        expected: usize,
        /// Elements of the tensor.
        found: usize,
    },
    /// A tensor is not f32. Weights, gradients and optimizer state are kept in f32 whatever the
    /// dtype that the model computes in: cast the gradient, and keep a master copy of the weight.
    #[error("{path}: {tensor} is {found}, expected f32: cast it before the update")]
    DType {
        /// The parameter, or the position of the tensor where it has no name.
        path: String,
        /// Which tensor: `weight`, `grad`, or a state tensor's name.
        tensor: String,
        /// The dtype found.
        found: String,
    },
    /// Two tensors of one update are on different devices.
    #[error("{path}: {tensor} is on {found}, expected {expected} as the weight: move it there")]
    Device {
        /// The parameter.
        path: String,
        /// Which tensor: `grad`, or a state tensor's name.
        tensor: String,
        /// The device of the weight.
        expected: String,
        /// The device of the tensor.
        found: String,
    },
    /// Optimizer state that does not have the tensors this optimizer keeps.
    #[error("{path}: state has the tensors [{}], expected [{}]", found.join(", "), expected.join(", "))]
    StateNames {
        /// The parameter.
        path: String,
        /// The names this optimizer keeps.
        expected: Vec<String>,
        /// The names found.
        found: Vec<String>,
    },
    /// A state tensor for which no step count was given.
    #[error("{tensor}: no step count for {path:?}")]
    MissingStep {
        /// The parameter, as read from the tensor's name.
        path: String,
        /// The full name of the tensor.
        tensor: String,
    },
    /// Two parameters have the same path.
    #[error("parameter path {path} is given twice")]
    DuplicatePath {
        /// The path.
        path: String,
    },
    /// The values of a tensor could not be read from its device.
    #[error("could not read {what} from the device: {reason}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// The backend's message.
        reason: String,
    },
}

impl Error {
    /// `Ok` where there are no problems.
    pub(crate) fn unless_valid(what: &'static str, problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::Invalid { what, problems }) }
    }
}
