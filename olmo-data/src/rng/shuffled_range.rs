//! Any part of a shuffle of `0..n`, without making the rest.
//!
//! A billion indices are 4 GB, and a question such as "which instances are in batch 1000" concerns
//! a few thousand of them. So only those are followed through the swaps:
//!
//! - where a value goes: through the swaps in their order;
//! - which value comes to a position: through the swaps in the opposite order, from the position
//!   back to where its value began. The draws cannot be run backwards, since it is not known which
//!   words were dropped; so a first pass keeps the generator's state every few thousand draws, and
//!   each block is drawn again from there.
//!
//! Memory is that of what is followed, and a few dozen bytes for each block.

use std::collections::HashMap;

use rayon::prelude::*;

use super::Generator;
use super::draws::Draws;

/// Draws between two kept states.
const BLOCK: usize = 1 << 16;
/// Blocks drawn again at a time, on all cores.
const BLOCKS_AT_ONCE: usize = 16;

/// `0..n` as `Generator(PCG64(seed)).shuffle` leaves it, not held in memory.
///
/// ```
/// use olmo_data::rng::{Generator, ShuffledRange};
///
/// let mut values: Vec<u32> = (0..1000).collect();
/// Generator::new(6198).shuffle(&mut values);
///
/// let shuffled = ShuffledRange::new(6198, 1000);
/// assert_eq!(shuffled.values(&[17, 3]), [values[17], values[3]]);
/// assert_eq!(shuffled.positions(&[values[17]]), [17]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShuffledRange {
    seed: u64,
    n: u32,
}

impl ShuffledRange {
    /// The shuffle of `0..n` by a seed.
    pub fn new(seed: u64, n: u32) -> Self {
        Self { seed, n }
    }

    /// Numbers in the range.
    pub fn len(&self) -> u32 {
        self.n
    }

    /// Whether the range is empty.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The values at some positions, in the order of the positions.
    ///
    /// # Panics
    ///
    /// Where a position is not below [`ShuffledRange::len`].
    pub fn values(&self, positions: &[u32]) -> Vec<u32> {
        let mut followed = Followed::new(positions, self.n);
        let mut states = Vec::new();
        let mut draws = self.draws();
        let mut partners = vec![0; BLOCK];
        loop {
            states.push(draws.clone());
            if draws.fill(&mut partners) < BLOCK {
                break;
            }
        }
        let mut blocks = vec![Vec::new(); BLOCKS_AT_ONCE];
        for group in states.rchunks(BLOCKS_AT_ONCE) {
            group.par_iter().zip(&mut blocks).for_each(|(state, block)| {
                block.resize(BLOCK, 0);
                let n_drawn = state.clone().fill(block);
                block.truncate(n_drawn);
            });
            for (state, block) in group.iter().zip(&blocks).rev() {
                let last = state.position() - block.len() as u32;
                for (position, &partner) in (last + 1..).zip(block.iter().rev()) {
                    followed.swap(position, partner);
                }
            }
        }
        followed.into_places()
    }

    /// The positions of some values, in the order of the values.
    ///
    /// # Panics
    ///
    /// Where a value is not below [`ShuffledRange::len`].
    pub fn positions(&self, values: &[u32]) -> Vec<u32> {
        let mut followed = Followed::new(values, self.n);
        let mut draws = self.draws();
        let mut partners = vec![0; BLOCK];
        loop {
            let first = draws.position();
            let n_drawn = draws.fill(&mut partners);
            for (i, &partner) in partners[..n_drawn].iter().enumerate() {
                followed.swap(first - i as u32, partner);
            }
            if n_drawn < BLOCK {
                return followed.into_places();
            }
        }
    }

    fn draws(&self) -> Draws {
        Draws::new(Generator::new(self.seed), self.n)
    }
}

/// Where the followed ones are.
struct Followed {
    /// One bit for each of the lowest bits of a place: whether a followed one may have been there.
    seen: Vec<u64>,
    mask: u32,
    /// Place to the numbers of those that are there: the same may be asked for twice.
    at: HashMap<u32, Vec<usize>>,
    n_places: usize,
}

impl Followed {
    fn new(places: &[u32], n: u32) -> Self {
        let n_bits = (places.len() * 1024).next_power_of_two().clamp(1 << 12, 1 << 22);
        let mut followed = Self {
            seen: vec![0; n_bits / 64],
            mask: n_bits as u32 - 1,
            at: HashMap::new(),
            n_places: places.len(),
        };
        for (number, &place) in places.iter().enumerate() {
            assert!(place < n, "{place} is not below {n}");
            followed.at.entry(place).or_default().push(number);
            followed.mark(place);
        }
        followed
    }

    #[inline]
    fn swap(&mut self, a: u32, b: u32) {
        if self.may_be_at(a) | self.may_be_at(b) {
            self.swap_followed(a, b);
        }
    }

    #[inline(never)]
    fn swap_followed(&mut self, a: u32, b: u32) {
        let (from_a, from_b) = (self.at.remove(&a), self.at.remove(&b));
        for (place, numbers) in [(b, from_a), (a, from_b)] {
            if let Some(numbers) = numbers {
                self.at.entry(place).or_default().extend(numbers);
                self.mark(place);
            }
        }
    }

    fn may_be_at(&self, place: u32) -> bool {
        let bit = place & self.mask;
        self.seen[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    fn mark(&mut self, place: u32) {
        let bit = place & self.mask;
        self.seen[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    fn into_places(self) -> Vec<u32> {
        let mut places = vec![0; self.n_places];
        for (place, numbers) in self.at {
            for number in numbers {
                places[number] = place;
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn it_is_the_shuffle(seed: u64, n in 1u32..300_000, picks in prop::collection::vec(any::<u32>(), 0..40)) {
            let mut values: Vec<u32> = (0..n).collect();
            Generator::new(seed).shuffle(&mut values);
            let picks: Vec<u32> = picks.iter().map(|pick| pick % n).collect();
            let expected: Vec<u32> = picks.iter().map(|&pick| values[pick as usize]).collect();
            let shuffled = ShuffledRange::new(seed, n);
            prop_assert_eq!(shuffled.values(&picks), &expected[..]);
            prop_assert_eq!(shuffled.positions(&expected), picks);
        }
    }

    #[test]
    fn whole_blocks_come_out_even() {
        let n = 2 * BLOCK as u32 + 1;
        let mut values: Vec<u32> = (0..n).collect();
        Generator::new(1).shuffle(&mut values);
        let all: Vec<u32> = (0..n).collect();
        assert_eq!(ShuffledRange::new(1, n).values(&all), values);
        assert!(ShuffledRange::new(1, 0).values(&[]).is_empty());
        assert_eq!(ShuffledRange::new(1, 1).positions(&[0]), [0]);
    }
}
