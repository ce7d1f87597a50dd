//! torch's random permutation on the CPU, bit for bit: `torch.randperm(n, generator=g)` after
//! `g.manual_seed(seed)`.
//!
//! Words are those of MT19937, begun as by Knuth from the low 32 bits of the seed. For `i` from 0 on,
//! the next word modulo `n - i` says which of the rest changes places with the `i`-th. torch draws in
//! another way from 214,748,364 numbers on, of which none are made here.
//!
//! Checked against torch 2.9.0.

use super::mt19937::Mt19937;
use crate::{Error, Result};

/// From how many numbers on torch draws in another way.
const MAX: usize = u32::MAX as usize / 20;

/// The numbers below `n` in the order of torch's `randperm` for a seed.
///
/// # Errors
///
/// [`Error::Setting`] where there are more than torch permutes in this way.
pub fn torch_permutation(n: usize, seed: u64) -> Result<Vec<u32>> {
    if n >= MAX {
        let expected = format!("fewer than {MAX}");
        return Err(Error::Setting { name: "the number of instances", found: n as u64, expected });
    }
    let mut words = Mt19937::new(seed);
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in 0..n.saturating_sub(1) {
        order.swap(i, i + words.next_u32() as usize % (n - i));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with torch 2.9.0 for this test.
    #[test]
    fn orders_are_those_of_torch() {
        let order = |n, seed| torch_permutation(n, seed).unwrap();
        assert_eq!(order(0, 3), [0; 0]);
        assert_eq!(order(1, 0), [0]);
        assert_eq!(order(2, 1), [1, 0]);
        assert_eq!(order(5000, 0)[..8], [1044, 2591, 4111, 725, 1703, 1919, 2111, 138]);
        // Of a seed the low 32 bits count.
        let start = [411, 49, 291, 695, 678, 515, 112, 606];
        assert_eq!(order(1000, (1 << 40) + 5)[..8], start);
        assert_eq!(order(1000, 5)[..8], start);
        // More words than the state has, many times over.
        let long = order(70_000, 6198);
        assert_eq!(long[..5], [67178, 6119, 52057, 20782, 2125]);
        assert_eq!(long[69_995..], [24204, 59322, 39268, 13341, 67037]);
    }

    #[test]
    fn what_torch_draws_in_another_way_is_refused() {
        let error = torch_permutation(MAX, 0).unwrap_err().to_string();
        assert!(error.contains("214748364"), "{error}");
    }
}
