//! Generated text as it grows, up to the first stop text.
//!
//! What may turn out to be the beginning of a stop text is held back until the next tokens show
//! what it is; at the end it is given after all.

use crate::Result;
use crate::error::Error;
use crate::token_stream::TokenStream;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// Decodes tokens until one of several stop texts appears.
///
/// ```
/// # fn main() -> olmo_data::Result<()> {
/// # let tokenizer = olmo_data::BpeTraining::new(258).train([Ok("a".to_owned())])?;
/// use olmo_data::TextStream;
///
/// let mut stream = TextStream::new(tokenizer.clone(), vec!["END".to_owned()]);
/// let mut shown = String::new();
/// for id in tokenizer.encode("one E two END three")? {
///     shown += stream.push(id)?;
///     if stream.is_stopped() {
///         break;
///     }
/// }
/// shown += stream.finish()?;
/// assert_eq!(shown, "one E two ");
/// assert_eq!(stream.text(), shown);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TextStream {
    stream: Option<TokenStream>,
    stops: Vec<String>,
    text: String,
    /// Bytes of `text` that have been given out.
    n_given: usize,
    stopped: bool,
}

impl TextStream {
    /// A stream at the beginning of a text; an empty stop text is none.
    pub fn new(tokenizer: Tokenizer, mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        let stream = Some(TokenStream::new(tokenizer, SpecialTokens::Skip));
        Self { stream, stops, text: String::new(), n_given: 0, stopped: false }
    }

    /// Takes the next token and gives the text that is now certain, which may be empty. After a
    /// stop text, tokens change nothing.
    ///
    /// A token without text is none: a model's vocabulary is often padded past its tokenizer's.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where the tokens cannot be decoded.
    pub fn push(&mut self, token: u32) -> Result<&str> {
        let piece = match self.stream.as_mut().map(|stream| stream.push(token)) {
            Some(Ok(piece)) => piece,
            None | Some(Err(Error::UnknownTokenId { .. })) => None,
            Some(Err(error)) => return Err(error),
        };
        if let Some(piece) = piece {
            self.grow(&piece);
        }
        let held_back = if self.stopped { 0 } else { self.begun_stop() };
        Ok(self.given_up_to(self.text.len() - held_back))
    }

    /// Whether a stop text is complete.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Ends the text and gives what was held back, an unfinished character as U+FFFD.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where the tokens cannot be decoded.
    pub fn finish(&mut self) -> Result<&str> {
        if let Some(stream) = self.stream.take()
            && !self.stopped
            && let Some(rest) = stream.finish()?
        {
            self.grow(&rest);
        }
        Ok(self.given_up_to(self.text.len()))
    }

    /// The text so far, with what is held back; stop texts are left out.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn grow(&mut self, piece: &str) {
        // A stop text may have begun in what came before.
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(piece);
        let found =
            self.stops.iter().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
        if let Some(at) = found {
            // Never before what was given out, which holds no beginning of a stop text.
            self.text.truncate(from + at);
            self.stopped = true;
            self.stream = None;
        }
    }

    /// Bytes at the end that may turn out to be the beginning of a stop text.
    fn begun_stop(&self) -> usize {
        let begun = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).rev();
            ends.into_iter().find(|&end| self.text.ends_with(&stop[..end])).unwrap_or(0)
        };
        self.stops.iter().map(begun).max().unwrap_or(0)
    }

    fn given_up_to(&mut self, end: usize) -> &str {
        let start = self.n_given;
        self.n_given = end.max(start);
        &self.text[start..self.n_given]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train_tokenizer::BpeTraining;
    use proptest::prelude::*;

    /// What is shown of a text, and whether it was stopped.
    fn shown(text: &str, stops: &[&str]) -> (String, bool) {
        let tokenizer = BpeTraining::new(258).train([Ok("a".to_owned())]).unwrap();
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut stream = TextStream::new(tokenizer.clone(), stops);
        let mut shown = String::new();
        for id in tokenizer.encode(text).unwrap() {
            shown += stream.push(id).unwrap();
        }
        shown += stream.finish().unwrap();
        assert_eq!(shown, stream.text());
        (shown, stream.is_stopped())
    }

    #[test]
    fn the_first_stop_text_ends_it() {
        assert_eq!(shown("abcabd", &["abd"]), ("abc".to_owned(), true));
        assert_eq!(shown("aab", &["ab", "aab"]), (String::new(), true));
        assert_eq!(shown("生活は", &["活"]), ("生".to_owned(), true));
        assert_eq!(shown("ab", &["abc", ""]), ("ab".to_owned(), false));
        assert_eq!(shown("", &[]), (String::new(), false));
    }

    proptest! {
        #[test]
        fn it_is_the_text_before_a_stop_text(text in "[ab é生]{0,14}", stop in "[ab 生]{1,3}") {
            let expected = match text.find(&stop) {
                Some(at) => (text[..at].to_owned(), true),
                None => (text.clone(), false),
            };
            prop_assert_eq!(shown(&text, &[&stop]), expected);
        }
    }
}
