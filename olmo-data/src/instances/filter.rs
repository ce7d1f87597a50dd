//! Instances that repeat a short sequence of tokens many times, and so teach nothing.
//!
//! Matches `find_periodic_sequences` of `olmo_core/data/utils.py` (and of the original trainer): for
//! each period the tokens are laid out in rows of that length, a row that equals the one before
//! belongs to a repetition, and what fits of the rows around it does too. It sees only what repeats
//! three times or more. Such an instance stays in its batch, but none of its labels count.

use crate::official::InstanceFilterConfig;

/// A sequence that is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repetition {
    /// Its first token; as in the reference, less than 0 where the padding of the last row fits.
    pub start: i64,
    /// One past its last token.
    pub end: i64,
    /// Tokens of what is repeated.
    pub period: usize,
    /// How many times it is there, in whole.
    pub times: i64,
}

/// Whether instances count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepetitionFilter {
    config: InstanceFilterConfig,
}

impl RepetitionFilter {
    /// A filter.
    pub fn new(config: InstanceFilterConfig) -> Self {
        Self { config }
    }

    /// Whether no sequence is repeated too often.
    pub fn keeps(&self, input_ids: &[u32]) -> bool {
        let InstanceFilterConfig {
            repetition_max_period: max,
            repetition_min_period: min,
            repetition_max_count: count,
        } = self.config;
        find_periodic_sequences(input_ids, max, min)
            .iter()
            .all(|repetition| repetition.times < count as i64)
    }
}

/// All repetitions, by period and then by place.
pub fn find_periodic_sequences(
    tokens: &[u32],
    max_period: usize,
    min_period: usize,
) -> Vec<Repetition> {
    let max_period = max_period.min(tokens.len() / 3);
    let mut found = Vec::new();
    for period in min_period.max(1)..=max_period {
        // One more row than is full: the reference pads by a whole row where nothing is left over.
        let n_rows = tokens.len() / period + 1;
        let equal = |row: usize, column: usize| {
            let before = (row + n_rows - 1) % n_rows;
            let here = tokens.get(row * period + column);
            // Padding equals padding, but never a token.
            here == tokens.get(before * period + column)
        };
        let whole = |row: usize| (0..period).all(|column| equal(row, column));
        let mut row = 1;
        while row < n_rows {
            if !whole(row) {
                row += 1;
                continue;
            }
            let first = row;
            while row + 1 < n_rows && whole(row + 1) {
                row += 1;
            }
            let before = (0..period).rev().take_while(|&c| equal(first - 1, c)).count();
            let after = if row + 1 < n_rows {
                (0..period).take_while(|&c| equal(row + 1, c)).count()
            } else {
                0
            };
            let start = ((first - 1) * period) as i64 - before as i64;
            let end = ((row + 1) * period + after) as i64;
            let times = (end - start).div_euclid(period as i64);
            if times > 2 {
                found.push(Repetition { start, end, period, times });
            }
            row += 1;
        }
    }
    found
}
