//! `olmo chat`: a conversation with a model.

mod conversation;
mod line;
mod refused;

use std::env;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::str;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use olmo_data::{ChatTemplate, SpecialTokens, Tokenizer};
use olmo_hub::ModelFolder;

use self::conversation::{Answer, Conversation, Rules};
use self::line::Line;
use self::refused::Refused;
use crate::device::DeviceName;
use crate::input;
use crate::interrupt::Interrupt;
use crate::output;
use crate::sampling::SamplingOptions;
use crate::weights::{self, Weights};

/// Talk with a model
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo chat --model OLMo-2-0425-1B-Instruct --temperature 0.6 --top-p 0.95
  olmo chat --model OLMo-2-0425-1B-Instruct --system \"Answer in one sentence.\"
  echo \"What is the capital of France?\" | olmo chat --model OLMo-2-0425-1B-Instruct

Each line is a message; a line that ends in \\ goes on in the next. Ctrl-C ends an answer,
and at the prompt the conversation. Through a pipe it ends both, lines that are refused do not, and the
exit code tells of them. /help lists the commands, /exit ends the conversation.")]
pub(crate) struct Chat {
    /// Folder of the model, or a repository of the Hub, owner/name[@revision]
    #[arg(long, value_name = "DIR|REPO")]
    model: PathBuf,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Jinja template of the conversation, in place of the model's own
    #[arg(long = "chat-template", value_name = "FILE")]
    template: Option<PathBuf>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_new_tokens: usize,
    /// Tokens of the whole conversation at most; the default is the model's context
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Say after each answer how many tokens were kept, run and new, on standard error
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    weights: Weights,
}

const HELP: &str = "/reset        begin anew
/system TEXT  begin anew, with TEXT as what the model is told before
/save FILE    write the conversation as a line of JSON, as training data has it
/help         this
/exit         end; so does the end of the input";

impl Chat {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let sampling = self.sampling.sampling()?;
        ensure!(self.max_new_tokens > 0, "--max-new-tokens is 0, expected at least 1");
        ensure!(self.context != Some(0), "--context is 0, expected at least 1");
        let folder = input::model_folder(&self.model)?;
        let tokenizer = input::tokenizer(&folder)?.with_context(|| {
            format!("a chat needs {}, which is not there", input::tokenizer_path(&folder).display())
        })?;
        let template = self.template(&folder)?;
        let ends = ends(&folder, &tokenizer, &template)?;
        let model = weights::load(&folder, device, self.weights)?;
        let rules = Rules {
            template,
            tokenizer,
            ends,
            sampling,
            max_new_tokens: self.max_new_tokens,
            context: self.context.unwrap_or(usize::MAX).min(model.config().max_sequence_length),
        };
        let interrupt = Interrupt::listen()?;
        let mut conversation = Conversation::new(&model, rules, self.system.clone());
        let is_terminal = io::stdin().is_terminal();
        if is_terminal {
            output::line("/help lists the commands, /exit ends.")?;
        }
        let mut refused = Refused::default();
        while let Some(line) = interrupt.wait(|| next_line(is_terminal))? {
            match parsed(&line) {
                Line::Empty => {}
                Line::Exit => break,
                Line::Help => output::line(HELP)?,
                Line::Reset => conversation.reset(),
                Line::System(text) => conversation.set_system(text),
                Line::Save(path) => match conversation.save(&at_home(path)) {
                    Ok(()) => output::line(format!("saved {}", at_home(path).display()))?,
                    // Whoever talks should not lose the conversation to a wrong path.
                    Err(error) => refused.push(error),
                },
                Line::Wrong(complaint) => refused.push(anyhow!(complaint)),
                Line::Message(text) => {
                    if let Err(refusal) = self.answer(&mut conversation, text, &interrupt)? {
                        refused.push(anyhow!(refusal));
                    }
                }
            }
            if is_terminal {
                // It was the answer that was to end.
                interrupt.clear();
            }
        }
        if is_terminal { Ok(()) } else { refused.result() }
    }

    fn template(&self, folder: &ModelFolder) -> Result<ChatTemplate> {
        let dir = folder.path();
        if let Some(path) = &self.template {
            return Ok(ChatTemplate::from_file(path, dir)?);
        }
        ChatTemplate::from_folder(dir)?.with_context(|| {
            format!(
                "{} has no chat template, as base models have none: neither chat_template.jinja nor \
                 one in tokenizer_config.json; give one with --chat-template FILE, or continue a \
                 text with `olmo generate`",
                dir.display()
            )
        })
    }

    /// Prints an answer. The inner error is why there is none; the conversation is then as it was.
    fn answer(
        &self,
        conversation: &mut Conversation<'_>,
        message: &str,
        interrupt: &Interrupt,
    ) -> Result<Result<(), String>> {
        let start = Instant::now();
        let answer = conversation.answer(message, interrupt)?;
        if let Ok(Answer { kept, run, new }) = answer
            && self.verbose
        {
            let seconds = start.elapsed().as_secs_f64();
            output::complain(&format!(
                "{kept} tokens kept, {run} run, {new} new in {seconds:.1} s"
            ));
        }
        Ok(answer.map(|_| ()))
    }
}

/// What a line asks for, which has to be text.
fn parsed(line: &[u8]) -> Line<'_> {
    str::from_utf8(line).map_or_else(
        |error| {
            let byte = error.valid_up_to() + 1;
            Line::Wrong(format!("the message is no UTF-8 at its byte {byte}, and is left out"))
        },
        Line::parse,
    )
}

/// A path as a shell reads it, which is not asked here.
fn at_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::var_os("HOME")) {
        (Some(rest), Some(home)) if !home.is_empty() => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// The tokens that end an answer: those of the model, and the one that the template puts there.
fn ends(folder: &ModelFolder, tokenizer: &Tokenizer, template: &ChatTemplate) -> Result<Vec<u32>> {
    let mut ends = folder.special().eos_token_id.clone();
    // A template that objects to the question asked here may like those that come.
    let end = template.end_of_answer().unwrap_or_default();
    if let Some(&id) = tokenizer.encode(&end)?.first()
        && tokenizer.decode(&[id], SpecialTokens::Skip)?.is_empty()
        && !ends.contains(&id)
    {
        ends.push(id);
    }
    Ok(ends)
}

/// The next message, of one line or of several that end in a backslash; `None` at the end.
fn next_line(is_terminal: bool) -> Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    loop {
        if is_terminal {
            output::piece(if message.is_empty() { "> " } else { "… " })?;
        }
        let mut bytes = Vec::new();
        let read = io::stdin().lock().read_until(b'\n', &mut bytes);
        if read.context("cannot read the message")? == 0 {
            return Ok(Some(message).filter(|message| !message.is_empty()));
        }
        let mut line = bytes.as_slice();
        while let [rest @ .., b'\n' | b'\r'] = line {
            line = rest;
        }
        let Some(part) = line.strip_suffix(b"\\") else {
            message.extend(line);
            return Ok(Some(message));
        };
        message.extend(part);
        message.push(b'\n');
    }
}
