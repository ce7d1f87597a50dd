//! Generation: iterators over new tokens, of one prompt or of many at once.
//!
//! The rows of a batch end together: shorter prompts have padding before them, which no token sees
//! and no position counts, so a row's logits are those it has alone, but for rounding. Rows that
//! ended leave the batch.

use crate::cache::KvCache;
use crate::error::Error;
use crate::sampling::{Sampler, Sampling};
use crate::transformer::Transformer;

/// An endless iterator over the tokens that follow a prompt.
///
/// It ends by itself only when the model's context is full; take as many as you want, and stop at
/// the end-of-text token if you care for it. An error is yielded once, then the iterator ends.
#[derive(Debug)]
pub struct Generator<'a> {
    model: &'a Transformer,
    /// Keys and values of all tokens but those that the model has not seen yet.
    cache: KvCache,
    sampler: Sampler,
    /// The prompt and what was generated.
    tokens: Vec<u32>,
    logits: Vec<f32>,
    finished: bool,
}

/// An iterator over the steps of several rows: each step is one new token of every row that goes on.
///
/// It ends when no row goes on: each has `max_new_tokens`, or fills the model's context, or was
/// [finished](Self::finish). An error is yielded once, then the iterator ends.
#[derive(Debug)]
pub struct BatchGenerator<'a> {
    model: &'a Transformer,
    cache: KvCache,
    /// Those that go on, in the order of the cache's rows.
    rows: Vec<Row>,
    max_new_tokens: usize,
    finished: bool,
}

/// A new token of one row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewToken {
    /// Index of the row's prompt.
    pub row: usize,
    /// The token.
    pub token: u32,
}

#[derive(Debug)]
struct Row {
    index: usize,
    sampler: Sampler,
    tokens: Vec<u32>,
    n_prompt: usize,
    /// Places before the first token.
    padding: usize,
    logits: Vec<f32>,
    finished: bool,
}

impl Transformer {
    /// Continues `prompt`, one token at a time.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::SequenceTooLong`] where the
    /// prompt alone is longer than the model's context, and [`Error::Sampling`].
    pub fn generate(&self, prompt: &[u32], sampling: Sampling) -> Result<Generator<'_>, Error> {
        let limit = self.config().max_sequence_length;
        self.generate_up_to(prompt, sampling, limit)
    }

    /// As [`generate`](Self::generate), with room for `capacity` tokens, the prompt included. The newest
    /// token takes none: the model has not seen it.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate).
    pub fn generate_up_to(
        &self,
        prompt: &[u32],
        sampling: Sampling,
        capacity: usize,
    ) -> Result<Generator<'_>, Error> {
        let capacity = capacity.min(self.config().max_sequence_length);
        self.check_prompt(prompt, capacity)?;
        Ok(Generator {
            model: self,
            cache: self.new_cache(1, capacity),
            sampler: Sampler::new(sampling)?,
            tokens: prompt.to_vec(),
            logits: Vec::new(),
            finished: false,
        })
    }

    /// Continues several prompts at once, each by up to `max_new_tokens` and as if it were alone. Each draws from
    /// a stream of its own; the first from that of [`generate`](Self::generate).
    ///
    /// ```
    /// # use burn::tensor::Device;
    /// # use olmo_model::{InitConfig, Sampling, Transformer, presets};
    /// # #[cfg(feature = "flex")]
    /// # fn main() -> Result<(), olmo_model::Error> {
    /// # let config = presets::small_olmo2(32, 2, 4, 100);
    /// # let model = Transformer::init(&config, &InitConfig::default(), 0, &Device::flex())?;
    /// let prompts = [vec![3, 1, 4], vec![2, 7]];
    /// let mut texts = prompts.to_vec();
    /// let mut steps = model.generate_batch(&prompts, Sampling::greedy(), 8)?;
    /// while let Some(step) = steps.next() {
    ///     for new in step? {
    ///         texts[new.row].push(new.token);
    ///         if new.token == 0 {
    ///             steps.finish(new.row);
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "flex"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::EmptyPrompt`] also where there is no prompt, and [`Error::Row`] with the errors of
    /// [`generate`](Self::generate) of one.
    pub fn generate_batch(
        &self,
        prompts: &[Vec<u32>],
        sampling: Sampling,
        max_new_tokens: usize,
    ) -> Result<BatchGenerator<'_>, Error> {
        let longest = prompts.iter().map(Vec::len).max().ok_or(Error::EmptyPrompt)?;
        let padding: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.len()).collect();
        let sampler = Sampler::new(sampling)?;
        let mut rows = Vec::with_capacity(prompts.len());
        for (index, prompt) in prompts.iter().enumerate() {
            self.check_prompt(prompt, self.config().max_sequence_length)
                .map_err(|source| Error::Row { row: index + 1, source: Box::new(source) })?;
            rows.push(Row {
                index,
                sampler: sampler.clone().of_row(index),
                tokens: prompt.clone(),
                n_prompt: prompt.len(),
                padding: padding[index],
                logits: Vec::new(),
                finished: max_new_tokens == 0,
            });
        }
        let context = self.config().max_sequence_length;
        // The last token of a row is not run.
        let run = |row: &Row| row.n_prompt.saturating_add(max_new_tokens.saturating_sub(1));
        let room = rows.iter().map(|row| row.padding + run(row).min(context)).max();
        let cache = self.new_cache(rows.len(), room.unwrap_or(longest)).with_padding(&padding);
        Ok(BatchGenerator { model: self, cache, rows, max_new_tokens, finished: false })
    }

    /// Checks that every id has a row in the embedding.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`], naming the first that has none.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        let vocab_size = self.config().vocab_size;
        match tokens.iter().position(|&id| id as usize >= vocab_size) {
            Some(position) => {
                Err(Error::TokenOutOfRange { id: tokens[position], position, vocab_size })
            }
            None => Ok(()),
        }
    }

    pub(crate) fn check_prompt(&self, prompt: &[u32], capacity: usize) -> Result<(), Error> {
        self.check_tokens(prompt)?;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() > capacity {
            return Err(Error::SequenceTooLong { length: prompt.len(), limit: capacity });
        }
        Ok(())
    }
}

impl Generator<'_> {
    /// The prompt and what was generated.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The logits that the latest token was chosen from; none before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Goes on from `tokens` instead. What they have in common with the tokens so far is not run
    /// again: a conversation grows at the cost of what is new in it.
    ///
    /// Gives the number of tokens that are kept.
    ///
    /// # Errors
    ///
    /// As [`Transformer::generate`]; the generator is then as it was.
    pub fn go_on_from(&mut self, tokens: &[u32]) -> Result<usize, Error> {
        self.model.check_prompt(tokens, self.cache.capacity())?;
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token is run again where need be, for its logits.
        let kept = common.min(self.cache.len()).min(tokens.len() - 1);
        if self.cache.truncate(kept).is_err() {
            // Windowed layers forgot what the tokens after these would need: all are run again.
            self.cache.clear();
        }
        self.tokens = tokens.to_vec();
        self.logits.clear();
        self.finished = false;
        Ok(self.cache.len())
    }

    fn step(&mut self) -> Result<u32, Error> {
        let pending = &self.tokens[self.cache.len()..];
        let mut logits = self.model.last_logits([pending].into_iter(), &mut self.cache)?;
        self.logits = logits.remove(0);
        let token = self.sampler.next_token(&self.tokens, &self.logits)?;
        self.tokens.push(token);
        Ok(token)
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished || self.tokens.len() > self.cache.capacity() {
            return None;
        }
        let token = self.step();
        self.finished = token.is_err();
        Some(token)
    }
}

impl BatchGenerator<'_> {
    /// Has rows draw as if there were `first` others before them, where prompts are continued some at a time:
    /// each is then continued as it is among all of them. To be called before the first step.
    #[must_use]
    pub fn behind(mut self, first: usize) -> Self {
        for row in &mut self.rows {
            row.sampler = row.sampler.clone().of_row(first + row.index);
        }
        self
    }

    /// Ends a row, which then costs nothing any more; one that has ended stays so.
    pub fn finish(&mut self, row: usize) {
        self.rows.iter_mut().filter(|r| r.index == row).for_each(|r| r.finished = true);
    }

    /// The logits that the latest token of a row was chosen from; `None` before the first, and
    /// where the row ended in an earlier step.
    pub fn logits(&self, row: usize) -> Option<&[f32]> {
        let row = self.rows.iter().find(|r| r.index == row)?;
        Some(row.logits.as_slice()).filter(|logits| !logits.is_empty())
    }

    fn step(&mut self) -> Result<Vec<NewToken>, Error> {
        let seen = self.cache.len();
        let pending = self.rows.iter().map(|row| &row.tokens[seen.saturating_sub(row.padding)..]);
        let logits = self.model.last_logits(pending, &mut self.cache)?;
        let context = self.model.config().max_sequence_length;
        let mut new = Vec::with_capacity(self.rows.len());
        for (row, logits) in self.rows.iter_mut().zip(logits) {
            let token = row.sampler.next_token(&row.tokens, &logits)?;
            row.tokens.push(token);
            row.logits = logits;
            row.finished = row.tokens.len() > context
                || row.tokens.len() - row.n_prompt >= self.max_new_tokens;
            new.push(NewToken { row: row.index, token });
        }
        Ok(new)
    }

    /// Takes the rows that ended out of the batch.
    fn drop_finished(&mut self) {
        if self.rows.iter().all(|row| !row.finished) {
            return;
        }
        let going = self.rows.iter().enumerate().filter(|(_, row)| !row.finished);
        let going: Vec<usize> = going.map(|(place, _)| place).collect();
        if !going.is_empty() {
            self.cache.select(&going);
        }
        self.rows.retain(|row| !row.finished);
    }
}

impl Iterator for BatchGenerator<'_> {
    type Item = Result<Vec<NewToken>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        self.drop_finished();
        if self.rows.is_empty() {
            return None;
        }
        let step = self.step();
        self.finished = step.is_err();
        Some(step)
    }
}
