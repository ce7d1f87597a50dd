//! Errors as a user sees them, and the exit code that a script sees.

use std::error::Error as StdError;
use std::io;
use std::process::ExitCode;

use olmo_hub::error::FolderProblem;

use crate::output;

/// Of the machine: disk, network, memory, numbers.
pub(crate) const RUNTIME: u8 = 1;
/// Of the user: a flag, a configuration, the content of a file. Also what clap exits with.
const INPUT: u8 = 2;

/// Prints an error with its causes and gives the exit code.
///
/// Standard output without a reader, as of `olmo model list | head -1`, is no error; any other closed
/// pipe, such as one that a result is written to, is one.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(output::has_no_reader)) {
        return ExitCode::SUCCESS;
    }
    output::complain(&format!("error: {}", told(error, "\n  because: ")));
    ExitCode::from(exit_code(error))
}

/// An error with its causes, each after `between`.
pub(crate) fn told(error: &anyhow::Error, between: &str) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many messages of the libraries end in that of their cause.
        if !message.ends_with(&cause) {
            message.push_str(between);
            message.push_str(&cause);
        }
    }
    message
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if is_of_the_machine(error) { RUNTIME } else { INPUT }
}

/// Whether it is the machine that failed, and not the input that is wrong.
pub(crate) fn is_of_the_machine(error: &anyhow::Error) -> bool {
    error.chain().any(is_runtime)
}

fn is_runtime(error: &(dyn StdError + 'static)) -> bool {
    if let Some(kind) = io_kind(error) {
        return !is_about_input(kind);
    }
    if let Some(error) = error.downcast_ref::<olmo_data::Error>() {
        return is_runtime_data(error);
    }
    if let Some(error) = error.downcast_ref::<olmo_eval::Error>() {
        return match error {
            olmo_eval::Error::Data(error) => is_runtime_data(error),
            olmo_eval::Error::NonFiniteLoss { .. } | olmo_eval::Error::Cancelled => true,
            _ => false,
        };
    }
    if let Some(error) = error.downcast_ref::<olmo_hub::Error>() {
        return is_runtime_hub(error);
    }
    if let Some(error) = error.downcast_ref::<olmo_model::Error>() {
        return matches!(error, olmo_model::Error::NonFiniteLogits);
    }
    if let Some(error) = error.downcast_ref::<olmo_train::Error>() {
        return match error {
            olmo_train::Error::NonFinite { .. }
            | olmo_train::Error::NonFiniteScore { .. }
            | olmo_train::Error::Spike { .. }
            | olmo_train::Error::InUse { .. } => true,
            olmo_train::Error::Data(error) => is_runtime_data(error),
            olmo_train::Error::Hub(error) => is_runtime_hub(error),
            _ => false,
        };
    }
    error.is::<ctrlc::Error>()
        || error.is::<crate::memory::OutOfMemory>()
        || error.is::<crate::commands::train::Stopped>()
        || error.is::<crate::interrupt::Interrupted>()
}

fn is_runtime_data(error: &olmo_data::Error) -> bool {
    match error {
        olmo_data::Error::Io { source, .. } => !is_about_input(source.kind()),
        olmo_data::Error::Cancelled | olmo_data::Error::LoaderStopped => true,
        _ => false,
    }
}

/// Where a file of a model could not be read, as where its configuration could not.
fn is_runtime_hub(error: &olmo_hub::Error) -> bool {
    match error {
        olmo_hub::Error::Cancelled => true,
        olmo_hub::Error::Folder { problems, .. } => problems.0.iter().any(|problem| {
            matches!(problem, FolderProblem::Unreadable { kind, .. } if !is_about_input(*kind))
        }),
        #[cfg(feature = "net")]
        olmo_hub::Error::Hub(error) => error.is_machine(),
        _ => false,
    }
}

fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    error.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// A path that is wrong or a file whose content is, rather than a disk that fails.
fn is_about_input(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::NotFound
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::UnexpectedEof
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(kind: io::ErrorKind) -> olmo_data::Error {
        olmo_data::Error::Io { path: "x".into(), source: kind.into() }
    }

    #[test]
    fn exit_codes_tell_the_machine_from_the_input() {
        let code = |error: anyhow::Error| exit_code(&error);
        assert_eq!(code(io_error(io::ErrorKind::StorageFull).into()), RUNTIME);
        assert_eq!(code(io_error(io::ErrorKind::NotFound).into()), INPUT);
        let wrapped = olmo_eval::Error::Data(io_error(io::ErrorKind::PermissionDenied));
        assert_eq!(code(anyhow::Error::from(wrapped).context("while reading")), RUNTIME);
        assert_eq!(code(olmo_model::Error::NonFiniteLogits.into()), RUNTIME);
        assert_eq!(code(olmo_model::Error::EmptyPrompt.into()), INPUT);
        assert_eq!(code(olmo_data::Error::Cancelled.into()), RUNTIME);
        assert_eq!(code(olmo_eval::Error::Data(olmo_data::Error::NoFiles).into()), INPUT);
        assert_eq!(code(anyhow::anyhow!("unknown preset")), INPUT);
        assert_eq!(code(olmo_hub::Error::Cancelled.into()), RUNTIME);
    }

    /// Of a model's weights as of its configuration, loaded or trained on.
    #[test]
    fn a_file_that_cannot_be_read_is_the_machines() {
        let folder = |kind| {
            let problem = FolderProblem::Unreadable {
                file: "model.safetensors".into(),
                problem: "it says why".into(),
                kind,
            };
            let problems = olmo_hub::error::Problems(vec![FolderProblem::NoTensors, problem]);
            olmo_hub::Error::Folder { path: "x".into(), problems }
        };
        for (kind, code) in [
            (io::ErrorKind::PermissionDenied, RUNTIME),
            (io::ErrorKind::Other, RUNTIME),
            (io::ErrorKind::UnexpectedEof, INPUT),
            (io::ErrorKind::IsADirectory, INPUT),
        ] {
            let of_config =
                olmo_hub::Error::Io { path: "x".into(), action: "read", source: kind.into() };
            assert_eq!(exit_code(&of_config.into()), code, "{kind}");
            assert_eq!(exit_code(&folder(kind).into()), code, "{kind}");
            assert_eq!(exit_code(&olmo_train::Error::from(folder(kind)).into()), code, "{kind}");
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::Error::from(io_error(io::ErrorKind::NotFound));
        assert_eq!(told(&error, ": "), "x: entity not found");
        assert_eq!(
            told(&error.context("while reading"), ": "),
            "while reading: x: entity not found"
        );
    }
}
