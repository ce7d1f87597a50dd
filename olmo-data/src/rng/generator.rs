//! Bits to shuffles and numbers: NumPy's `Generator` over [`Pcg64`].
//!
//! - 32-bit draws take the low half of a 64-bit word and keep the high half for the next one
//!   (`pcg64_next32`).
//! - A shuffle is Fisher–Yates from the end, its indices drawn by masking and rejection
//!   (`random_interval`).
//! - `integers` draws by D. Lemire's multiplication (`buffered_bounded_lemire_uint32`,
//!   `bounded_lemire_uint64`), which gives other numbers than the shuffle's draw.

use std::hint::black_box;

use super::draws::Draws;
use super::{Pcg64, SeedSequence};
use crate::{Error, Result};

/// Swaps whose two places are brought into the cache together.
const SWAPS_AT_ONCE: usize = 256;

/// `np.random.Generator(np.random.PCG64(seed))`.
///
/// ```
/// use olmo_data::rng::Generator;
///
/// // np.random.Generator(np.random.PCG64(6198)).permutation(16)
/// assert_eq!(
///     Generator::new(6198).permutation(16),
///     [4, 14, 6, 15, 3, 2, 13, 0, 10, 11, 9, 7, 8, 1, 12, 5]
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generator {
    bits: Pcg64,
    /// High half of the last word that a 32-bit draw was taken from.
    kept: Option<u32>,
}

impl Generator {
    /// The generator of a seed, as `np.random.default_rng(seed)` gives it too.
    pub fn new(seed: u64) -> Self {
        Self::from_bits(Pcg64::new(seed))
    }

    /// The generator of a seed sequence.
    pub fn from_seed_sequence(sequence: &SeedSequence) -> Self {
        Self::from_bits(Pcg64::from_seed_sequence(sequence))
    }

    /// The generator over a bit stream.
    pub fn from_bits(bits: Pcg64) -> Self {
        Self { bits, kept: None }
    }

    /// The next 64 bits. A kept half word stays kept, as in NumPy.
    pub fn next_u64(&mut self) -> u64 {
        self.bits.next_u64()
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.kept.take().unwrap_or_else(|| {
            let word = self.bits.next_u64();
            self.kept = Some((word >> 32) as u32);
            word as u32
        })
    }

    /// Whether the next 32-bit draw takes the kept half of a word.
    pub(crate) fn has_half_word(&self) -> bool {
        self.kept.is_some()
    }

    /// A number in `[0, 1)` with 53 random bits, `random()`.
    pub fn random(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Shuffles in place, `shuffle(array)` of a one-dimensional array.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let j = self.interval(i as u64) as usize;
            values.swap(i, j);
        }
    }

    /// Shuffles indices in place, as [`Generator::shuffle`] does, several times as fast where they
    /// do not fit the cache: a swap waits for memory, so the places of many are read first, all of
    /// which the processor fetches at a time.
    pub fn shuffle_indices(&mut self, indices: &mut [u32]) {
        let Ok(n) = u32::try_from(indices.len()) else { return self.shuffle(indices) };
        let mut draws = Draws::new(self.clone(), n);
        let mut partners = [0; SWAPS_AT_ONCE];
        while draws.position() > 0 {
            let first = draws.position() as usize;
            let n_drawn = draws.fill(&mut partners);
            let partners = &partners[..n_drawn];
            let touch = |sum: u32, &partner: &u32| sum.wrapping_add(indices[partner as usize]);
            black_box(partners.iter().fold(0, touch));
            for (i, &partner) in partners.iter().enumerate() {
                indices.swap(first - i, partner as usize);
            }
        }
        *self = draws.into_generator();
    }

    /// The numbers below `n` in random order, `permutation(n)`.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut values: Vec<usize> = (0..n).collect();
        self.shuffle(&mut values);
        values
    }

    /// A number of `low..high`, `integers(low, high)`; the types `int64`, `uint32` and `uint64` of
    /// NumPy draw alike.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyRange`] where `low` is not below `high`.
    pub fn integers(&mut self, low: u64, high: u64) -> Result<u64> {
        if low >= high {
            return Err(Error::EmptyRange { low, high });
        }
        Ok(low + self.lemire(high - 1 - low))
    }

    /// A number of `low..=high`, `integers(low, high, endpoint=True)`.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyRange`] where `low` is above `high`.
    pub fn integers_inclusive(&mut self, low: u64, high: u64) -> Result<u64> {
        if low > high {
            return Err(Error::EmptyRange { low, high });
        }
        Ok(low + self.lemire(high - low))
    }

    /// A number of `0..=max` by masking and rejection, NumPy's `random_interval`.
    fn interval(&mut self, max: u64) -> u64 {
        if max == 0 {
            return 0;
        }
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let bits = if u32::try_from(max).is_ok() {
                u64::from(self.next_u32())
            } else {
                self.next_u64()
            };
            if bits & mask <= max {
                return bits & mask;
            }
        }
    }

    /// A number of `0..=max` by multiplication, NumPy's `random_bounded_uint64`.
    fn lemire(&mut self, max: u64) -> u64 {
        match (max, u32::try_from(max)) {
            (0, _) => 0,
            (u64::MAX, _) => self.next_u64(),
            (_, Ok(u32::MAX)) => u64::from(self.next_u32()),
            (_, Ok(max)) => u64::from(self.lemire_u32(max)),
            (_, Err(_)) => self.lemire_u64(max),
        }
    }

    fn lemire_u32(&mut self, max: u32) -> u32 {
        let n_values = max + 1;
        let threshold = (u32::MAX - max) % n_values;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n_values);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    fn lemire_u64(&mut self, max: u64) -> u64 {
        let n_values = max + 1;
        let threshold = (u64::MAX - max) % n_values;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n_values);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shuffling_many_at_a_time_is_shuffling(seed: u64, n in 0u32..3000, before: bool) {
            let mut one_by_one = Generator::new(seed);
            if before {
                one_by_one.next_u32();
            }
            let mut many = one_by_one.clone();
            let (mut expected, mut found): (Vec<u32>, Vec<u32>) = ((0..n).collect(), (0..n).collect());
            one_by_one.shuffle(&mut expected);
            many.shuffle_indices(&mut found);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(many, one_by_one);
        }
    }

    #[test]
    fn the_high_half_of_a_word_is_the_second_u32() {
        let word = Pcg64::new(7).next_u64();
        let mut generator = Generator::new(7);
        assert_eq!(generator.next_u32(), word as u32);
        let after = generator.next_u64();
        assert_eq!(generator.next_u32(), (word >> 32) as u32);
        let mut bits = Pcg64::new(7);
        bits.next_u64();
        assert_eq!(after, bits.next_u64());
    }

    #[test]
    fn empty_ranges_are_errors_and_draw_nothing() {
        let mut generator = Generator::new(0);
        let before = generator.clone();
        assert!(matches!(generator.integers(5, 5), Err(Error::EmptyRange { low: 5, high: 5 })));
        assert!(generator.integers_inclusive(6, 5).is_err());
        assert_eq!(generator, before);
    }
}
