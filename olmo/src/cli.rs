//! The command line: its verbs and the options that all of them share.

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::{
    bench, chat, convert, data, devices, eval, generate, logits, model, quickstart, replay, report,
    train, verify,
};
#[cfg(feature = "net")]
use crate::commands::{pull, push, revisions};
use crate::device::DeviceName;

/// OLMo on burn: train, run and measure the OLMo family of language models.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, after_help = AFTER)]
pub(crate) struct Cli {
    /// Where tensors live: flex, wgpu, vulkan, metal, cuda[:N], rocm[:N], tch or tch-cuda[:N]
    #[arg(long, global = true, default_value = "flex", value_name = "DEVICE")]
    device: DeviceName,
    #[command(subcommand)]
    command: Command,
}

const AFTER: &str = "Example:
  olmo generate --model OLMo-2-0425-1B --prompt \"The capital of France is\"

Exit codes: 0 success, 1 the machine failed (disk, memory, numbers), 2 the input is wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::Quickstart),
    Devices(devices::Devices),
    #[command(subcommand)]
    Model(model::Model),
    #[cfg(feature = "net")]
    Pull(pull::Pull),
    #[cfg(feature = "net")]
    Push(push::Push),
    #[cfg(feature = "net")]
    Revisions(revisions::Revisions),
    Verify(verify::Verify),
    Convert(convert::Convert),
    Generate(generate::Generate),
    Chat(chat::Chat),
    Logits(logits::Logits),
    Train(train::Train),
    Replay(replay::Replay),
    Report(report::Report),
    #[command(subcommand)]
    Eval(eval::Eval),
    #[command(subcommand)]
    Data(data::Data),
    #[command(subcommand)]
    Bench(bench::Bench),
}

impl Cli {
    /// What the process was started with; ends it where that is wrong, or help was asked for.
    pub(crate) fn of_the_process() -> Self {
        let matches = with_negative_values(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs the verb that was asked for.
    pub(crate) fn run(self) -> Result<()> {
        let device = self.device;
        match self.command {
            Command::Quickstart(command) => command.run(device),
            Command::Devices(command) => command.run(),
            Command::Model(command) => command.run(),
            #[cfg(feature = "net")]
            Command::Pull(command) => command.run(),
            #[cfg(feature = "net")]
            Command::Push(command) => command.run(),
            #[cfg(feature = "net")]
            Command::Revisions(command) => command.run(),
            Command::Verify(command) => command.run(device),
            Command::Convert(command) => command.run(),
            Command::Generate(command) => command.run(device),
            Command::Chat(command) => command.run(device),
            Command::Logits(command) => command.run(device),
            Command::Train(command) => command.run(device),
            Command::Replay(command) => command.run(device),
            Command::Report(command) => command.run(device),
            Command::Eval(command) => command.run(device),
            Command::Data(command) => command.run(),
            Command::Bench(command) => command.run(device),
        }
    }
}

/// Takes `-1` after an option for its value, so that what is wrong with it is said of that option.
fn with_negative_values(command: clap::Command) -> clap::Command {
    let of_option = |arg: clap::Arg| {
        let takes_values = arg.get_action().takes_values();
        if takes_values { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(of_option).mut_subcommands(with_negative_values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_number_is_the_value_of_its_option() {
        let arguments = ["olmo", "generate", "--model", "m", "--prompt", "a", "--seed", "-1"];
        let command = with_negative_values(Cli::command());
        command.clone().debug_assert();
        let error = command.try_get_matches_from(arguments).expect_err("no seed");
        assert!(
            error.to_string().starts_with("error: invalid value '-1' for '--seed <S>'"),
            "{error}"
        );
    }

    #[test]
    fn a_text_may_begin_with_hyphens() {
        let verbs = [
            ["olmo", "generate", "--model", "m", "--prompt", "- a list", "--stop", "---"],
            ["olmo", "generate", "--model", "m", "--prompt", "a", "--stop", "-->"],
            ["olmo", "chat", "--model", "m", "--seed", "1", "--system", "- be brief"],
        ];
        for arguments in verbs {
            let command = with_negative_values(Cli::command());
            if let Err(error) = command.try_get_matches_from(arguments) {
                panic!("{arguments:?}: {error}");
            }
        }
    }

    #[test]
    fn the_command_line_is_sound_and_every_verb_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut left: Vec<clap::Command> = vec![command];
        let mut n_verbs = 0;
        while let Some(command) = left.pop() {
            let verbs: Vec<_> = command.get_subcommands().cloned().collect();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                !verbs.is_empty() || help.contains("\n  olmo "),
                "{} has no example",
                command.get_name()
            );
            n_verbs += usize::from(verbs.is_empty());
            left.extend(verbs);
        }
        let n_of_net = if cfg!(feature = "net") { 3 } else { 0 };
        assert_eq!(n_verbs, 20 + n_of_net);
    }
}

/// Commands in the documents, which use every verb.
#[cfg(all(test, feature = "net"))]
mod documents {
    use std::fs;
    use std::path::{Path, PathBuf};

    use clap::Parser as _;

    use super::Cli;

    /// README.md and the chapters of the book.
    fn documents() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let chapters = fs::read_dir(root.join("docs/src")).expect("the book is there");
        let chapters = chapters.map(|entry| entry.expect("listed").path());
        std::iter::once(root.join("README.md")).chain(chapters).collect()
    }

    /// The commands of the shell blocks of a document, continued lines joined.
    fn commands(text: &str) -> Vec<Vec<String>> {
        let blocks = text.split("```").skip(1).step_by(2);
        let lines = blocks
            .filter_map(|block| block.strip_prefix("sh\n"))
            .map(|block| block.replace("\\\n", " "))
            .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
        let words = lines.filter_map(|line| shlex::split(&line));
        words.filter(|words| words.first().is_some_and(|word| word == "olmo")).collect()
    }

    #[test]
    fn commands_in_the_documents_are_understood() {
        let mut n = 0;
        for path in documents() {
            for words in commands(&fs::read_to_string(&path).expect("readable")) {
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{}: {}: {error}", path.display(), words.join(" "));
                }
                n += 1;
            }
        }
        assert!(n > 20, "only {n} commands were found");
    }
}
