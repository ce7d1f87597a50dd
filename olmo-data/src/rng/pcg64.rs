//! The bit stream: PCG64 as NumPy's default, PCG XSL-RR 128/64.
//!
//! `state = state * M + inc` modulo 2^128, then `rotr64(high ^ low, state >> 122)`. The state moves
//! before the output is taken from it.

use super::SeedSequence;

const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

/// A 128-bit generator of 64-bit words, `np.random.PCG64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pcg64 {
    state: u128,
    increment: u128,
}

impl Pcg64 {
    /// The stream of a seed, `np.random.PCG64(seed)`.
    pub fn new(seed: u64) -> Self {
        Self::from_seed_sequence(&SeedSequence::new(seed))
    }

    /// The stream of a seed sequence, `np.random.PCG64(sequence)`.
    pub fn from_seed_sequence(sequence: &SeedSequence) -> Self {
        let words = sequence.generate_u64(4);
        let wide = |i: usize| u128::from(words[i]) << 64 | u128::from(words[i + 1]);
        let mut pcg = Self { state: 0, increment: wide(2) << 1 | 1 };
        pcg.step();
        pcg.state = pcg.state.wrapping_add(wide(0));
        pcg.step();
        pcg
    }

    /// The current state, `state["state"]["state"]` in NumPy.
    pub fn state(&self) -> u128 {
        self.state
    }

    /// The increment, which tells streams apart; `state["state"]["inc"]` in NumPy.
    pub fn increment(&self) -> u128 {
        self.increment
    }

    /// The next 64 bits, `random_raw()` in NumPy.
    pub fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }
}
