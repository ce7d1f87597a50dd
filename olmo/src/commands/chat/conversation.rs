//! The conversation: its messages, and the generator that has read them.
//!
//! Each turn renders the whole conversation and lets the generator go on from its tokens, so what
//! the cache holds of it is not run again, whatever a template does.

use std::path::Path;

use anyhow::Result;
use olmo_data::{ChatTemplate, Message, TextStream, Tokenizer};
use olmo_hub::AtomicFile;
use olmo_model::{Generator, Sampling, Transformer};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::output;

/// What does not change in a conversation.
pub(super) struct Rules {
    pub(super) template: ChatTemplate,
    pub(super) tokenizer: Tokenizer,
    /// Tokens that end an answer.
    pub(super) ends: Vec<u32>,
    pub(super) sampling: Sampling,
    /// Tokens of an answer at most.
    pub(super) max_new_tokens: usize,
    /// Tokens of the conversation at most.
    pub(super) context: usize,
}

pub(super) struct Conversation<'a> {
    model: &'a Transformer,
    rules: Rules,
    system: Option<String>,
    messages: Vec<Message>,
    /// Made with the first message.
    generator: Option<Generator<'a>>,
}

/// A conversation as training data has it, the role before the content.
#[derive(Serialize)]
struct Saved<'a> {
    messages: &'a [Message],
}

/// Tokens of one turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    /// Those of the conversation that were in the cache.
    pub(super) kept: usize,
    /// Those of the conversation that were not.
    pub(super) run: usize,
    /// Those of the answer.
    pub(super) new: usize,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(model: &'a Transformer, rules: Rules, system: Option<String>) -> Self {
        let mut conversation = Self { model, rules, system, messages: Vec::new(), generator: None };
        conversation.reset();
        conversation
    }

    /// Begins anew, with the same system message.
    pub(super) fn reset(&mut self) {
        self.messages = self.system.iter().map(|text| Message::new("system", text)).collect();
    }

    /// Begins anew, with another system message.
    pub(super) fn set_system(&mut self, text: &str) {
        self.system = Some(text.to_owned());
        self.reset();
    }

    /// Prints the answer to a message as it comes. The inner error is a message that cannot be
    /// answered, and says why; the conversation is then as it was.
    pub(super) fn answer(
        &mut self,
        message: &str,
        interrupt: &Interrupt,
    ) -> Result<Result<Answer, String>> {
        self.messages.push(Message::new("user", message));
        let tokens = match self.tokens() {
            Ok(tokens) => tokens,
            Err(refusal) => {
                self.messages.pop();
                return Ok(Err(refusal));
            }
        };
        let (model, rules) = (self.model, &self.rules);
        let (mut generator, kept) = if let Some(mut generator) = self.generator.take() {
            let kept = generator.go_on_from(&tokens)?;
            (generator, kept)
        } else {
            (model.generate_up_to(&tokens, rules.sampling.clone(), rules.context)?, 0)
        };
        let mut text = TextStream::new(rules.tokenizer.clone(), Vec::new());
        let mut new = 0;
        for token in generator.by_ref().take(rules.max_new_tokens) {
            let token = token?;
            new += 1;
            if rules.ends.contains(&token) || interrupt.is_asked() {
                break;
            }
            output::piece(text.push(token)?)?;
        }
        output::line(text.finish()?)?;
        self.generator = Some(generator);
        self.messages.push(Message::new("assistant", text.text()));
        Ok(Ok(Answer { kept, run: tokens.len() - kept, new }))
    }

    /// Writes the conversation as one line of JSONL, as training data has it.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut line = serde_json::to_string(&Saved { messages: &self.messages })?;
        line.push('\n');
        let mut file = AtomicFile::create(path)?;
        file.put(line.as_bytes())?;
        Ok(file.commit()?)
    }

    /// The tokens of the conversation up to where the answer begins.
    fn tokens(&self) -> Result<Vec<u32>, String> {
        let rendered = self.rules.template.render(&self.messages, true);
        let text = rendered.map_err(|error| error.to_string())?;
        let tokens = self.rules.tokenizer.encode(&text).map_err(|error| error.to_string())?;
        let (length, context) = (tokens.len(), self.rules.context);
        if length >= context {
            return Err(format!(
                "the conversation has {length} tokens with this message, and there is room for \
                 {context} with the answer; /reset begins anew"
            ));
        }
        self.model.check_tokens(&tokens).map_err(|error| error.to_string())?;
        if tokens.is_empty() {
            return Err("the chat template makes no text of this message".to_owned());
        }
        Ok(tokens)
    }
}
