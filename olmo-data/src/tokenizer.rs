//! Text to token ids and back: a thin wrapper on the `tokenizers` library.
//!
//! It reads Hugging Face's `tokenizer.json`. Settings in that file that cut or pad what is encoded
//! are dropped, since they would lose text without a word.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::atomic_file::AtomicFile;
use crate::{Error, Result};

/// The token that ends a document in every OLMo tokenizer.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// What becomes of special tokens, such as `<|endoftext|>`, in decoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialTokens {
    /// They are left out.
    #[default]
    Skip,
    /// They are written out.
    Keep,
}

/// A tokenizer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the file cannot be read, [`Error::TokenizerFile`] where it is no tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Self::parse(&bytes, || path.display().to_string())
    }

    /// Reads the contents of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`Error::TokenizerFile`] where they are no tokenizer.
    pub fn from_bytes(bytes: impl AsRef<[u8]>) -> Result<Self> {
        Self::parse(bytes.as_ref(), || "the given data".to_owned())
    }

    pub(crate) fn from_inner(inner: tokenizers::Tokenizer) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Makes special tokens that stand in a text ordinary text, as Dolma's `encode_special_tokens`
    /// does. Without it, a document that spells `<|endoftext|>` gets that token.
    pub fn with_special_tokens_as_text(self) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.set_encode_special_tokens(true);
        Self::from_inner(inner)
    }

    /// The token ids of a text, without any special token added.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_inner(text, false)
    }

    /// The token ids of a text, with the special tokens that the tokenizer puts around one.
    ///
    /// # Errors
    ///
    /// As of [`Tokenizer::encode`].
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_inner(text, true)
    }

    /// The token ids of many texts, in their order, on all cores.
    ///
    /// # Errors
    ///
    /// As of [`Tokenizer::encode`].
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// The text of token ids. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTokenId`] where an id has no token: a model's vocabulary is often padded past
    /// its tokenizer's.
    pub fn decode(&self, ids: &[u32], special: SpecialTokens) -> Result<String> {
        for &id in ids {
            self.check_id(id)?;
        }
        self.inner
            .decode(ids, special == SpecialTokens::Skip)
            .map_err(|error| failure("decode", &error))
    }

    /// The text of token ids, those without a token left out: for looking at data, whatever is in it.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where the decoder fails.
    pub fn decode_lossy(&self, ids: &[u32], special: SpecialTokens) -> Result<String> {
        self.inner
            .decode(ids, special == SpecialTokens::Skip)
            .map_err(|error| failure("decode", &error))
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The largest token id; past [`Tokenizer::vocab_size`] where ids have gaps.
    pub fn max_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// The id of a token, given as the tokenizer spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, as the tokenizer spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of [`END_OF_TEXT`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] where the tokenizer has no such token.
    pub fn eos_id(&self) -> Result<u32> {
        self.token_to_id(END_OF_TEXT)
            .ok_or_else(|| Error::UnknownToken { token: END_OF_TEXT.to_owned() })
    }

    /// Checks that an id has a token.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTokenId`] where it has none.
    pub fn check_id(&self, id: u32) -> Result<()> {
        match self.id_to_token(id) {
            Some(_) => Ok(()),
            None => Err(Error::UnknownTokenId { id, vocab_size: self.vocab_size() }),
        }
    }

    /// SHA-256 of the tokenizer as it would be saved: what tells two tokenizers apart.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where it cannot be written out.
    pub fn sha256(&self) -> Result<String> {
        let json = self.inner.to_string(false).map_err(|error| failure("be saved", &error))?;
        Ok(crate::fingerprint::sha256(json.as_bytes()))
    }

    /// Writes a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let json = self.inner.to_string(true).map_err(|error| failure("be saved", &error))?;
        let mut file = AtomicFile::create(path.as_ref())?;
        file.write_all(json.as_bytes())?;
        file.finish()?.persist()
    }

    fn parse(bytes: &[u8], origin: impl FnOnce() -> String) -> Result<Self> {
        let unusable = |reason: String| Error::TokenizerFile { origin: origin(), reason };
        // The library panics where parts of the JSON are cut short or of another form.
        let read = serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map_err(|error| error.to_string())
            .and_then(|_| {
                std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes))
                    .unwrap_or_else(|_| Err("its JSON is not a tokenizer's".into()))
                    .map_err(|error| error.to_string())
            });
        let mut inner = match read {
            Ok(inner) => inner,
            Err(reason) => return Err(unusable(reason)),
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| failure("drop its truncation", &error))?;
        Ok(Self::from_inner(inner))
    }

    fn encode_inner(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        self.inner
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| failure("encode", &error))
    }
}

/// An error of the tokenizer library with what it was asked to do.
pub(crate) fn failure(task: &'static str, error: &tokenizers::Error) -> Error {
    Error::Tokenizer { task, reason: error.to_string() }
}
