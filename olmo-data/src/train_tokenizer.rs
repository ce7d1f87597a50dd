//! Training a byte-level BPE tokenizer, as GPT-2's and OLMo's are.
//!
//! Matches Hugging Face's `Tokenizer(BPE())` with `ByteLevel(add_prefix_space=False)` before and
//! after it and `BpeTrainer(initial_alphabet=ByteLevel.alphabet())`. Special tokens get the first
//! ids, the 256 bytes the next ones, merges the rest. The result depends on the texts alone, not on
//! their order nor on the number of threads.
//!
//! The trainer counts a pair of tokens in 31 bits, so no pair may occur more than 2^31 times: train
//! on a sample of a few tens of gigabytes at most.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
};

use crate::tokenizer::{END_OF_TEXT, Tokenizer, failure};
use crate::{Error, Result};

/// Tokens of single bytes.
const N_BYTES: usize = 256;

/// Settings for training a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpeTraining {
    vocab_size: usize,
    special_tokens: Vec<String>,
    min_frequency: u64,
}

impl BpeTraining {
    /// Training for a vocabulary of `vocab_size` tokens, with `<|endoftext|>` and `<|padding|>` as
    /// special tokens. A small corpus can give fewer tokens.
    pub fn new(vocab_size: usize) -> Self {
        let special_tokens = vec![END_OF_TEXT.to_owned(), "<|padding|>".to_owned()];
        Self { vocab_size, special_tokens, min_frequency: 0 }
    }

    /// Sets the special tokens, which count towards the vocabulary.
    pub fn with_special_tokens<T: Into<String>>(
        mut self,
        tokens: impl IntoIterator<Item = T>,
    ) -> Self {
        self.special_tokens = tokens.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how often a pair must occur to be merged.
    pub fn with_min_frequency(mut self, min_frequency: u64) -> Self {
        self.min_frequency = min_frequency;
        self
    }

    /// Trains on texts. The first error among them ends the training and is returned.
    ///
    /// # Errors
    ///
    /// [`Error::VocabTooSmall`] where bytes and special tokens do not fit, [`Error::EmptyCorpus`]
    /// where no text has a character, or the first error of the texts.
    pub fn train<I>(&self, texts: I) -> Result<Tokenizer>
    where
        I: IntoIterator<Item = Result<String>>,
        I::IntoIter: Send,
    {
        let n_special = self.special_tokens.len();
        let min = N_BYTES + n_special;
        if self.vocab_size < min {
            return Err(Error::VocabTooSmall { vocab_size: self.vocab_size, n_special, min });
        }
        let byte_level = ByteLevel::new(false, true, true);
        let special_tokens: Vec<AddedToken> =
            self.special_tokens.iter().map(|token| AddedToken::from(token.clone(), true)).collect();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(self.vocab_size)
            .min_frequency(self.min_frequency)
            .special_tokens(special_tokens.clone())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .show_progress(false)
            .build();
        count_words(&mut trainer, byte_level, texts.into_iter())?;

        let mut model = BPE::default();
        trainer.train(&mut model).map_err(|error| failure("be trained", &error))?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(byte_level));
        tokenizer.with_decoder(Some(byte_level));
        tokenizer.add_special_tokens(&special_tokens);
        Ok(Tokenizer::from_inner(tokenizer))
    }
}

/// Feeds the trainer with texts up to the first error.
fn count_words(
    trainer: &mut BpeTrainer,
    byte_level: ByteLevel,
    texts: impl Iterator<Item = Result<String>> + Send,
) -> Result<()> {
    let mut failed = None;
    let mut n_texts = 0u64;
    let mut n_bytes = 0u64;
    let sound = texts.map_while(|text| match text {
        Ok(text) => {
            n_texts += 1;
            n_bytes += text.len() as u64;
            Some(text)
        }
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    trainer
        .feed(sound, |text| {
            let mut words = PreTokenizedString::from(text);
            byte_level.pre_tokenize(&mut words)?;
            let splits = words.get_splits(OffsetReferential::Original, OffsetType::None);
            Ok(splits.into_iter().map(|(word, _, _)| word.to_owned()).collect())
        })
        .map_err(|error| failure("split text into words", &error))?;
    match failed {
        Some(error) => Err(error),
        None if n_bytes == 0 => Err(Error::EmptyCorpus { n_documents: n_texts }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::SpecialTokens;

    fn texts() -> Vec<String> {
        (0..400).map(|i| format!("Text {i}: the other {} of number {}.\n", i * i, i % 7)).collect()
    }

    fn train(vocab_size: usize, texts: Vec<String>) -> Tokenizer {
        BpeTraining::new(vocab_size).train(texts.into_iter().map(Ok)).unwrap()
    }

    #[test]
    fn training_is_deterministic_and_needs_no_order() {
        let folder = tempfile::tempdir().unwrap();
        let saved: Vec<String> = (0..4)
            .map(|i| {
                let mut texts = texts();
                texts.rotate_left(i * 37);
                let path = folder.path().join("tokenizer.json");
                train(500, texts).save(&path).unwrap();
                std::fs::read_to_string(path).unwrap()
            })
            .collect();
        assert!(saved.iter().all(|one| one == &saved[0]));
    }

    #[test]
    fn any_text_survives_a_round_trip() {
        let tokenizer = train(400, texts());
        assert_eq!(tokenizer.vocab_size(), 400);
        assert_eq!(tokenizer.eos_id().unwrap(), 0);
        assert_eq!(tokenizer.token_to_id("<|padding|>"), Some(1));
        for text in ["", "  the  other\n\n", "生活的真谛是 😀 \u{0}\r\n", "<|endoftext|> in text"]
        {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids, SpecialTokens::Keep).unwrap(), text);
        }
    }

    #[test]
    fn special_tokens_in_a_text_can_be_text() {
        let tokenizer = train(300, texts());
        assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [0]);
        let tokenizer = tokenizer.with_special_tokens_as_text();
        let ids = tokenizer.encode("<|endoftext|>").unwrap();
        assert!(!ids.contains(&0));
        assert_eq!(tokenizer.decode(&ids, SpecialTokens::Skip).unwrap(), "<|endoftext|>");
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let trained = train(350, texts());
        trained.save(&path).unwrap();
        let read = Tokenizer::from_file(&path).unwrap();
        let text = "the other text, naïve";
        assert_eq!(read.encode(text).unwrap(), trained.encode(text).unwrap());
        assert_eq!((read.vocab_size(), read.max_id()), (350, 349));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let few = BpeTraining::new(257).train([Ok("a".to_owned())]);
        assert!(matches!(few, Err(Error::VocabTooSmall { min: 258, .. })));
        let none = BpeTraining::new(300).train([Ok(String::new())]);
        assert!(matches!(none, Err(Error::EmptyCorpus { n_documents: 1 })));
        let broken = BpeTraining::new(300).train([Ok("a".to_owned()), Err(Error::NoFiles)]);
        assert!(matches!(broken, Err(Error::NoFiles)));

        let error = Tokenizer::from_bytes(b"{}").unwrap_err();
        assert!(error.to_string().starts_with("the given data is no usable tokenizer"), "{error}");
        let error = Tokenizer::from_file("no/such/tokenizer.json").unwrap_err();
        assert!(error.to_string().starts_with("no/such/tokenizer.json"), "{error}");
        let tokenizer = train(300, texts());
        let error = tokenizer.decode(&[5, 300], SpecialTokens::Skip).unwrap_err();
        assert!(matches!(error, Error::UnknownTokenId { id: 300, vocab_size: 300 }));
        let bare = BpeTraining::new(256).with_special_tokens([""; 0]).train([Ok("a".to_owned())]);
        assert!(matches!(bare.unwrap().eos_id(), Err(Error::UnknownToken { .. })));
    }

    #[test]
    fn truncation_and_padding_of_a_file_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        train(300, texts()).save(&path).unwrap();
        let mut json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["truncation"] = serde_json::json!({
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
        });
        let tokenizer = Tokenizer::from_bytes(json.to_string()).unwrap();
        assert!(tokenizer.encode("a long text is not cut").unwrap().len() > 2);
    }
}
