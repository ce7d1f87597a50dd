//! How a document longer than the context is cut, so that each token is scored once.
//!
//! Matches the rolling windows of Paloma (catwalk `predict_chunk_perplexity`, which takes
//! `get_rolling_token_windows` with a context of one token from the Eleuther harness). With a
//! context of `seq_len` tokens, a document of `n` tokens and the context token `P`:
//!
//! - the first window reads `P` and the tokens up to the last but one that it scores;
//! - each further window reads the last token of the one before and scores the next `seq_len`;
//! - the last window is moved back until it is full, so its first tokens are read again, as
//!   context, and not scored again.

/// One pass of the model over a part of a document.
///
/// Positions count the document's tokens, with the context token, if there is one, at position 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Position of the first token read.
    pub start: usize,
    /// End of the tokens read, exclusive; the token at this position is the last one scored.
    pub end: usize,
    /// Position of the first token scored.
    pub first_scored: usize,
}

/// The windows of a document of `n_tokens` tokens, the context token included.
///
/// All tokens but the first are scored, so a document of one token has none. A `seq_len` of 0 is
/// taken for 1.
pub fn windows(n_tokens: usize, seq_len: usize) -> impl Iterator<Item = Window> {
    let seq_len = seq_len.max(1);
    let last = n_tokens.saturating_sub(1);
    (0..last).step_by(seq_len).map(move |scored| {
        let end = last.min(scored + seq_len);
        Window { start: end.saturating_sub(seq_len), end, first_scored: scored + 1 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_tuples(n_tokens: usize, seq_len: usize) -> Vec<(usize, usize, usize)> {
        windows(n_tokens, seq_len).map(|w| (w.start, w.end, w.first_scored)).collect()
    }

    /// What `get_rolling_token_windows` gives for `P 0 1 2 3 4 5 6 7 8` and windows of 4 tokens.
    #[test]
    fn windows_are_those_of_paloma() {
        assert_eq!(as_tuples(10, 4), [(0, 4, 1), (4, 8, 5), (5, 9, 9)]);
        assert_eq!(as_tuples(9, 4), [(0, 4, 1), (4, 8, 5)]);
        assert_eq!(as_tuples(4, 4), [(0, 3, 1)]);
    }

    #[test]
    fn each_token_is_scored_once_from_a_window_that_fits() {
        for n_tokens in 0..40 {
            for seq_len in 1..12 {
                let mut scored = Vec::new();
                for window in windows(n_tokens, seq_len) {
                    assert!(window.start < window.end && window.end - window.start <= seq_len);
                    assert!(window.first_scored > window.start, "{n_tokens} {seq_len}");
                    scored.extend(window.first_scored..=window.end);
                }
                assert_eq!(scored, (1..n_tokens).collect::<Vec<_>>(), "{n_tokens} {seq_len}");
            }
        }
    }
}
