//! The partners that a shuffle swaps with, many at a time.
//!
//! A shuffle of `n` values swaps position `i` with a partner in `0..=i`, for `i` from `n - 1` down
//! to 1. Each partner is drawn by masking a 32-bit word and dropping words past `i`, as in
//! [`Generator`](super::Generator). Drawing a block of them in one loop without a branch on the
//! outcome is several times faster than one at a time, and lets what follows reach into memory for
//! many at once.

use super::Generator;

/// The draws of one shuffle, up to a certain position. A copy draws the same again.
#[derive(Debug, Clone)]
pub(crate) struct Draws {
    generator: Generator,
    /// The position whose partner is drawn next; 0 once all are.
    next: u32,
}

impl Draws {
    /// The draws for a shuffle of `n` values.
    pub(crate) fn new(generator: Generator, n: u32) -> Self {
        Self { generator, next: n.saturating_sub(1) }
    }

    /// The position that the next draw is for; 0 where there is none.
    pub(crate) fn position(&self) -> u32 {
        self.next
    }

    /// The generator after the draws so far.
    pub(crate) fn into_generator(self) -> Generator {
        self.generator
    }

    /// Draws the partners of the next positions, at most as many as there is room for, and returns
    /// how many there are; 0 at the end of the shuffle.
    pub(crate) fn fill(&mut self, partners: &mut [u32]) -> usize {
        let mut filled = 0;
        while filled < partners.len() && self.next > 0 {
            filled += self.fill_masked(&mut partners[filled..]);
        }
        filled
    }

    /// The same, down to where the mask changes.
    fn fill_masked(&mut self, partners: &mut [u32]) -> usize {
        let first = self.next;
        let mask = u32::MAX >> first.leading_zeros();
        let lowest = (mask >> 1) + 1;
        let count = partners.len().min((first - lowest) as usize + 1);
        let partners = &mut partners[..count];
        let mut filled = 0;
        // A word past its position is overwritten by the next one.
        if self.generator.has_half_word() {
            partners[0] = self.generator.next_u32() & mask;
            filled = usize::from(partners[0] <= first);
        }
        while filled + 2 <= count {
            let word = self.generator.next_u64();
            for half in [word as u32, (word >> 32) as u32] {
                let partner = half & mask;
                partners[filled] = partner;
                filled += usize::from(partner <= first - filled as u32);
            }
        }
        while filled < count {
            let partner = self.generator.next_u32() & mask;
            partners[filled] = partner;
            filled += usize::from(partner <= first - filled as u32);
        }
        self.next -= count as u32;
        count
    }
}
