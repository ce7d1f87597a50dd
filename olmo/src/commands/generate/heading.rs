//! What tells the texts of several rows apart: a line above each, as `head` has it of files.

use anyhow::Result;
use olmo_data::{SpecialTokens, Tokenizer};

use crate::output;

/// Characters of a prompt that a heading shows.
const SHOWN: usize = 60;

/// Prints the heading of a row, unless it is the only one: which it is, and what it continues.
pub(super) fn print(row: usize, prompts: &[Vec<u32>], tokenizer: &Tokenizer) -> Result<()> {
    if prompts.len() == 1 {
        return Ok(());
    }
    let prompt = beginning(&tokenizer.decode_lossy(&prompts[row], SpecialTokens::Keep)?);
    let between = if row == 0 { "" } else { "\n" };
    Ok(output::line(format!("{between}==> {} of {}: {prompt} <==", row + 1, prompts.len()))?)
}

/// The beginning of a text, in one line.
fn beginning(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", words[..end].trim_end()),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prompt_is_shown_by_its_beginning() {
        assert_eq!(beginning("a word\n\n  or two\t"), "a word or two");
        let exact = "生".repeat(SHOWN);
        assert_eq!(beginning(&exact), exact);
        assert_eq!(beginning(&format!("{exact}x")), format!("{exact}…"));
    }
}
