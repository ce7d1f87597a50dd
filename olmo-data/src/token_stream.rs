//! Token ids to text as they come, never with half a character.
//!
//! A character of several bytes can be spread over several tokens. A decoder writes U+FFFD for the
//! bytes of an unfinished one, at most three of them, so up to three at the end of the text are held
//! back until the next token shows what they are. Each new piece is what the text of the latest
//! tokens has more than before; the latest tokens are those since the last point at which nothing
//! was held back, with one before it for decoders that look at the token before.

use crate::Result;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// The longest unfinished character in UTF-8, in bytes.
const MAX_HELD: usize = 3;

/// Decodes one token at a time.
///
/// ```
/// # fn main() -> olmo_data::Result<()> {
/// # let text = "naïve café — 生活".to_owned();
/// # let tokenizer = olmo_data::BpeTraining::new(260).train([Ok(text.clone())])?;
/// use olmo_data::{SpecialTokens, TokenStream};
///
/// let mut stream = TokenStream::new(tokenizer.clone(), SpecialTokens::Skip);
/// let mut streamed = String::new();
/// for id in tokenizer.encode(&text)? {
///     streamed.extend(stream.push(id)?);
/// }
/// streamed.extend(stream.finish()?);
/// assert_eq!(streamed, text);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TokenStream {
    tokenizer: Tokenizer,
    special: SpecialTokens,
    window: Vec<u32>,
    /// What has been given out of the text of `window`.
    given: String,
}

impl TokenStream {
    /// A stream at the beginning of a text.
    pub fn new(tokenizer: Tokenizer, special: SpecialTokens) -> Self {
        Self { tokenizer, special, window: Vec::new(), given: String::new() }
    }

    /// Takes the next token and gives the text that is now certain, if there is any.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTokenId`](crate::Error::UnknownTokenId) where the id has no token; the stream
    /// stays as it was.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.tokenizer.check_id(id)?;
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window, self.special)?;
        let certain = without_unfinished(&text);
        // A decoder that rewrites what came before has nothing certain to give here.
        let Some(piece) = certain.strip_prefix(self.given.as_str()).map(str::to_owned) else {
            return Ok(None);
        };
        if certain.len() == text.len() {
            self.window = vec![id];
            self.given = self.tokenizer.decode(&self.window, self.special)?;
        } else {
            self.given.push_str(&piece);
        }
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    /// Ends the text: gives what was held back, an unfinished character as U+FFFD.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) where the tokens cannot be decoded.
    pub fn finish(self) -> Result<Option<String>> {
        let text = self.tokenizer.decode(&self.window, self.special)?;
        let rest = text.strip_prefix(self.given.as_str()).unwrap_or_default();
        Ok(Some(rest.to_owned()).filter(|rest| !rest.is_empty()))
    }
}

/// The text without the replacement characters at its end that may still become something else.
fn without_unfinished(text: &str) -> &str {
    let mut certain = text;
    for _ in 0..MAX_HELD {
        certain = certain.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(certain);
    }
    certain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train_tokenizer::BpeTraining;
    use proptest::prelude::*;

    /// A tokenizer of the special tokens and the 256 bytes: every character is split.
    fn bytes() -> Tokenizer {
        BpeTraining::new(258).train([Ok("a".to_owned())]).unwrap()
    }

    fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Option<String>> {
        let mut stream = TokenStream::new(tokenizer.clone(), SpecialTokens::Skip);
        let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    fn id_of_byte(tokenizer: &Tokenizer, byte: u8) -> u32 {
        let (id, _) = (0..258)
            .map(|id| (id, tokenizer.id_to_token(id).unwrap()))
            .find(|(_, token)| {
                let letter = token.chars().next().unwrap();
                token.chars().count() == 1 && tokenizers_letter(byte) == letter
            })
            .unwrap();
        id
    }

    /// GPT-2's letter for a byte.
    fn tokenizers_letter(byte: u8) -> char {
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        if printable(byte) {
            return char::from(byte);
        }
        let n = (0..byte).filter(|&b| !printable(b)).count() as u32;
        char::from_u32(256 + n).unwrap()
    }

    #[test]
    fn a_character_comes_with_its_last_byte() {
        let tokenizer = bytes();
        let ids = tokenizer.encode("é生😀x").unwrap();
        assert_eq!(ids.len(), 2 + 3 + 4 + 1);
        let given: Vec<usize> = stream(&tokenizer, &ids)
            .iter()
            .enumerate()
            .filter_map(|(i, piece)| piece.as_ref().map(|_| i))
            .collect();
        assert_eq!(given, [1, 4, 8, 9]);
    }

    #[test]
    fn an_unfinished_character_is_replaced_at_the_end() {
        let tokenizer = bytes();
        let ids = tokenizer.encode("aé").unwrap();
        let pieces = stream(&tokenizer, &ids[..2]);
        assert_eq!(pieces, [Some("a".to_owned()), None, Some("\u{fffd}".to_owned())]);
    }

    #[test]
    fn unknown_ids_are_errors_and_change_nothing() {
        let tokenizer = bytes();
        let mut stream = TokenStream::new(tokenizer.clone(), SpecialTokens::Skip);
        assert!(stream.push(258).is_err());
        let id = tokenizer.encode("a").unwrap()[0];
        assert_eq!(stream.push(id).unwrap(), Some("a".to_owned()));
    }

    #[test]
    fn special_tokens_are_skipped_or_kept() {
        let tokenizer = bytes();
        let eos = tokenizer.eos_id().unwrap();
        let mut ids = tokenizer.encode("a").unwrap();
        ids.push(eos);
        ids.extend(tokenizer.encode("b").unwrap());
        assert_eq!(stream(&tokenizer, &ids).into_iter().flatten().collect::<String>(), "ab");
        let mut kept = TokenStream::new(tokenizer, SpecialTokens::Keep);
        kept.push(ids[0]).unwrap();
        assert_eq!(kept.push(eos).unwrap().unwrap(), "<|endoftext|>");
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_text(text in "[a-z é生😀\u{fffd}]{0,12}") {
            let tokenizer = bytes();
            let ids = tokenizer.encode(&text).unwrap();
            let streamed: String = stream(&tokenizer, &ids).into_iter().flatten().collect();
            prop_assert_eq!(streamed, text);
        }

        #[test]
        fn any_bytes_stream_as_they_decode(bytes_in in prop::collection::vec(any::<u8>(), 0..24)) {
            let tokenizer = bytes();
            let ids: Vec<u32> = bytes_in.iter().map(|&b| id_of_byte(&tokenizer, b)).collect();
            let streamed: String = stream(&tokenizer, &ids).into_iter().flatten().collect();
            prop_assert_eq!(&streamed, &tokenizer.decode(&ids, SpecialTokens::Skip).unwrap());
            prop_assert_eq!(streamed, String::from_utf8_lossy(&bytes_in));
        }
    }
}
