//! Python's shuffle: `random.Random(seed).shuffle(x)`.
//!
//! The generator is MT19937, begun from the 32-bit words of the seed, the low one first. From the last
//! place to the second, each changes places with one up to it, whose number is drawn anew until it is
//! small enough: the high bits of a word, as many as the number of places has.
//!
//! Checked against Python 3.11.

use super::mt19937::Mt19937;

/// The places of `n` things after Python's shuffle with a seed: the `i`-th is of the one that comes
/// to place `i`. Of fewer than 2^32 things.
pub fn python_shuffle(n: usize, seed: u64) -> Vec<usize> {
    let (low, high) = (seed as u32, (seed >> 32) as u32);
    let words = [low, high];
    let mut generator = Mt19937::from_words(if high == 0 { &words[..1] } else { &words });
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(&mut generator, i + 1));
    }
    order
}

/// A number below `n`, Python's `_randbelow_with_getrandbits`.
fn below(generator: &mut Mt19937, n: usize) -> usize {
    let n_bits = usize::BITS - n.leading_zeros();
    loop {
        let drawn = (generator.next_u32() >> (u32::BITS - n_bits)) as usize;
        if drawn < n {
            return drawn;
        }
    }
}
