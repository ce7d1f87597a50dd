//! `olmo generate --beams`: the likeliest texts instead of the likeliest next tokens.

use anyhow::{Context as _, Result};
use clap::Args;
use olmo_data::{TextStream, Tokenizer};
use olmo_model::{BeamSearch, Transformer};

use crate::interrupt::Interrupt;

use super::report::{FoundBeam, Report, Stopped};

/// How to look for the likeliest texts.
#[derive(Debug, Args)]
pub(super) struct BeamOptions {
    /// Look for the likeliest texts with a beam of N, as the original `OLMo.generate` does
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = [
            "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "logprobs", "stop",
            "batch_size",
        ]
    )]
    pub(super) beams: Option<usize>,
    /// Next tokens that each beam proposes; the default is N
    #[arg(long, value_name = "M", requires = "beams")]
    node_beams: Option<usize>,
    /// Divide scores by the number of tokens to this power; 1 is the mean, none the sum
    #[arg(long, value_name = "P", requires = "beams", allow_negative_numbers = true)]
    length_penalty: Option<f64>,
    /// Tokens before an end-of-text token may come
    #[arg(long, value_name = "N", requires = "beams", default_value_t = 0)]
    min_new_tokens: usize,
}

impl BeamOptions {
    /// The search that is asked for, checked; `None` without `--beams`.
    pub(super) fn search(
        &self,
        max_steps: usize,
        end_tokens: Vec<u32>,
        vocab_size: usize,
    ) -> Result<Option<BeamSearch>> {
        let Some(beam_size) = self.beams else { return Ok(None) };
        let search = BeamSearch {
            beam_size,
            per_node_beam_size: self.node_beams,
            max_steps,
            min_steps: self.min_new_tokens,
            length_penalty: self.length_penalty,
            end_tokens,
        };
        search.validate(vocab_size)?;
        Ok(Some(search))
    }
}

/// Searches for continuations of one prompt and adds them to the report.
pub(super) fn run(
    model: &Transformer,
    search: &BeamSearch,
    prompt: &[u32],
    tokenizer: Option<&Tokenizer>,
    interrupt: &Interrupt,
    report: &mut Report,
) -> Result<()> {
    let number = report.tokens.len() + 1;
    let found = model.beam_search_while(prompt, search, || !interrupt.is_asked());
    let found = found.with_context(|| format!("cannot continue row {number}"))?;
    let ended = |tokens: &[u32]| tokens.last().is_some_and(|id| search.end_tokens.contains(id));
    let mut beams = Vec::with_capacity(found.len());
    for beam in found {
        let text = tokenizer.map(|tokenizer| -> Result<String> {
            let mut text = TextStream::new(tokenizer.clone(), Vec::new());
            for &token in beam.tokens.iter().filter(|id| !search.end_tokens.contains(id)) {
                text.push(token)?;
            }
            text.finish()?;
            Ok(text.text().to_owned())
        });
        beams.push(FoundBeam { tokens: beam.tokens, text: text.transpose()?, score: beam.score });
    }
    if let Some(best) = beams.first() {
        report.stopped.push(if ended(&best.tokens) { Stopped::Eos } else { Stopped::Length });
        report.tokens.push(best.tokens.clone());
        report.prompt_tokens.push(prompt.len());
        if let Some(text) = &best.text {
            report.text.get_or_insert_default().push(text.clone());
        }
    }
    report.beams.get_or_insert_default().push(beams);
    Ok(())
}
