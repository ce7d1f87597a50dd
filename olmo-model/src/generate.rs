//! Generation: an iterator over new tokens.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

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
    cache: KvCache,
    sampler: Sampler,
    /// Tokens the model has not seen yet: the prompt, then each token as it is chosen.
    pending: Vec<u32>,
    device: Device,
    finished: bool,
}

impl Transformer {
    /// Continues `prompt`, one token at a time.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::SequenceTooLong`] where the
    /// prompt alone fills the model's context, and [`Error::Sampling`].
    pub fn generate(&self, prompt: &[u32], sampling: Sampling) -> Result<Generator<'_>, Error> {
        let limit = self.config().max_sequence_length;
        self.generate_up_to(prompt, sampling, limit)
    }

    /// As [`generate`](Self::generate), with room for `capacity` tokens, the prompt included.
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
        self.check_tokens(prompt)?;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() > capacity {
            return Err(Error::SequenceTooLong { length: prompt.len(), limit: capacity });
        }
        let (device, dtype) = (self.device(), self.dtype());
        Ok(Generator {
            model: self,
            cache: KvCache::new(self.config(), 1, capacity, &device, dtype),
            sampler: Sampler::new(sampling)?,
            pending: prompt.to_vec(),
            device,
            finished: false,
        })
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

    /// The dtype of the weights.
    pub fn dtype(&self) -> DType {
        self.embeddings.weight.val().dtype()
    }
}

impl Generator<'_> {
    /// Runs the pending tokens through the model and chooses the next one.
    fn step(&mut self) -> Result<u32, Error> {
        let n = self.pending.len();
        let ids: Vec<i32> = self.pending.iter().map(|&id| id as i32).collect();
        let tokens: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [1, n]), &self.device);
        let hidden = self.model.hidden(tokens, Some(&mut self.cache))?;
        // Only the last token's logits matter; for a long prompt the others are most of the work.
        let [_, _, d_model] = hidden.dims();
        let logits = self.model.logits(hidden.slice([0..1, n - 1..n, 0..d_model]));
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let token = self.sampler.next_token(&logits)?;
        self.pending = vec![token];
        Ok(token)
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished || self.cache.len() + self.pending.len() > self.cache.capacity() {
            return None;
        }
        let token = self.step();
        self.finished = token.is_err();
        Some(token)
    }
}
