//! The order of batches where instances have several lengths: OLMo-core's `VSLCurriculum`.
//!
//! Matches `olmo_core/data/numpy_dataset.py` of ai2-olmo-core 2.4.0, after *Dataset Decomposition*
//! (arXiv 2405.13226). Instances lie in buckets by length, which are powers of two; a batch takes
//! instances of one bucket, as many as make `global_batch_size` tokens. Batches are numbered through
//! the buckets from the shortest on, and a curriculum puts the numbers in order:
//!
//! - `natural`: shuffled, with one of the longest first, so that a lack of memory shows at once;
//! - `grow_p2`, `grow_linear`: cycles over parts in which longer and longer buckets have the upper
//!   hand, by odds of powers of two or by linear odds; shuffled within a part.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rng::Generator;
use crate::{Error, Result};

/// How the lengths of batches follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum VslCurriculum {
    /// At random.
    #[default]
    Natural,
    /// From short to long in cycles, the odds being powers of two.
    GrowP2 {
        /// Cycles of an epoch.
        num_cycles: usize,
        /// Whether every bucket has as many batches as the smallest, the others' being dropped.
        balanced: bool,
    },
    /// From short to long in cycles, the odds being linear.
    GrowLinear {
        /// Cycles of an epoch.
        num_cycles: usize,
        /// Whether every bucket has as many batches as the smallest, the others' being dropped.
        balanced: bool,
    },
}

/// A bucket: the length of its instances, and how many instances or batches there are.
pub type Bucket = (usize, usize);

impl fmt::Display for VslCurriculum {
    /// As Python prints it, for the fingerprint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, num_cycles, balanced) = match self {
            Self::Natural => return f.write_str("VSLNaturalCurriculum()"),
            Self::GrowP2 { num_cycles, balanced } => ("VSLGrowP2Curriculum", num_cycles, balanced),
            Self::GrowLinear { num_cycles, balanced } => {
                ("VSLGrowLinearCurriculum", num_cycles, balanced)
            }
        };
        let balanced = if *balanced { "True" } else { "False" };
        write!(f, "{class}(num_cycles={num_cycles}, balanced={balanced})")
    }
}

impl VslCurriculum {
    /// The name of the folder that OLMo-core keeps its order in.
    pub fn short_str(&self) -> String {
        let (name, num_cycles, balanced) = match self {
            Self::Natural => return "vsl-natural".to_owned(),
            Self::GrowP2 { num_cycles, balanced } => ("p2", num_cycles, balanced),
            Self::GrowLinear { num_cycles, balanced } => ("linear", num_cycles, balanced),
        };
        let balanced = if *balanced { "-balanced" } else { "" };
        format!("vsl-grow-{name}-{num_cycles}-cycle{balanced}")
    }

    /// Batches that are used of each bucket, given its instances; shortest bucket first.
    pub fn batches_per_bucket(
        &self,
        instances_per_bucket: &[Bucket],
        global_batch_size: usize,
    ) -> Vec<Bucket> {
        let natural = instances_per_bucket.iter().map(|&(seq_len, n_instances)| {
            let per_batch = global_batch_size.checked_div(seq_len).unwrap_or(0);
            (seq_len, n_instances.checked_div(per_batch).unwrap_or(0))
        });
        let (Self::GrowP2 { num_cycles, balanced } | Self::GrowLinear { num_cycles, balanced }) =
            *self
        else {
            return natural.collect();
        };
        let whole = |n: usize| n.checked_div(num_cycles).unwrap_or(0) * num_cycles;
        let fewest = natural.clone().map(|(_, n)| n).min().unwrap_or(0);
        natural.map(|(seq_len, n)| (seq_len, whole(if balanced { fewest } else { n }))).collect()
    }

    /// The numbers of all batches in order.
    ///
    /// # Errors
    ///
    /// [`Error::Curriculum`] where there are too few batches to put in order: the reference fails
    /// on an assertion there.
    pub fn batch_indices(&self, batches_per_bucket: &[Bucket], seed: u64) -> Result<Vec<u32>> {
        let total: usize = batches_per_bucket.iter().map(|&(_, n)| n).sum();
        let Some(&(longest, n_longest)) = batches_per_bucket.last() else {
            return Err(Error::Curriculum { reason: "there are no buckets".to_owned() });
        };
        if n_longest == 0 {
            let reason = format!("no batch of the longest sequence length, {longest}");
            return Err(Error::Curriculum { reason });
        }
        if u32::try_from(total).is_err() {
            return Err(Error::Curriculum { reason: format!("{total} batches are too many") });
        }
        let first_longest = total - n_longest;
        let mut rng = Generator::new(seed);
        match *self {
            Self::Natural => {
                let mut indices: Vec<u32> = (0..total as u32).collect();
                let longest = rng.integers(first_longest as u64, total as u64)? as usize;
                indices.swap(0, longest);
                rng.shuffle(&mut indices[1..]);
                Ok(indices)
            }
            Self::GrowP2 { num_cycles, .. } | Self::GrowLinear { num_cycles, .. } => {
                let mut indices = Vec::with_capacity(total);
                for cycle in 0..num_cycles {
                    self.push_cycle(cycle, num_cycles, batches_per_bucket, &mut rng, &mut indices)?;
                }
                let first = indices.iter().position(|&batch| batch as usize >= first_longest);
                indices.swap(0, first.unwrap_or(0));
                Ok(indices)
            }
        }
    }

    /// Appends the batches of one cycle: a part for each bucket, shuffled.
    fn push_cycle(
        &self,
        cycle: usize,
        num_cycles: usize,
        batches_per_bucket: &[Bucket],
        rng: &mut Generator,
        indices: &mut Vec<u32>,
    ) -> Result<()> {
        let n_buckets = batches_per_bucket.len();
        let mut parts = vec![Vec::new(); n_buckets];
        let mut bucket_start = 0;
        for (bucket, &(seq_len, n_batches)) in batches_per_bucket.iter().enumerate() {
            let per_cycle = divide_evenly(n_batches, num_cycles);
            let mut next = bucket_start + per_cycle[..cycle].iter().sum::<usize>();
            let counts = self.counts_per_part(bucket, n_buckets, per_cycle[cycle]);
            if counts.iter().sum::<usize>() != per_cycle[cycle] {
                let reason = format!(
                    "{} batches a cycle of sequence length {seq_len} cannot be shared among \
                     {n_buckets} parts; use another number of cycles or another batch size",
                    per_cycle[cycle]
                );
                return Err(Error::Curriculum { reason });
            }
            for (part, count) in parts.iter_mut().zip(counts) {
                part.extend(next as u32..(next + count) as u32);
                next += count;
            }
            bucket_start += n_batches;
        }
        for part in &mut parts {
            rng.shuffle(part);
            indices.append(part);
        }
        Ok(())
    }

    /// How many of a bucket's batches of a cycle go into each part of the cycle.
    fn counts_per_part(&self, bucket: usize, n_buckets: usize, n_batches: usize) -> Vec<usize> {
        let start = n_buckets - bucket;
        let odds: Vec<u64> = (0..n_buckets)
            .map(|part| match start + part {
                sum if sum <= n_buckets => sum,
                sum => start - sum % n_buckets,
            })
            .map(|odds| match self {
                Self::GrowP2 { .. } => 1 << (odds - 1),
                _ => odds as u64,
            })
            .collect();
        let sum: u64 = odds.iter().sum();
        // Python's order of operations and its rounding, half to even.
        let count =
            |&odds: &u64| (odds as f64 / sum as f64 * n_batches as f64).round_ties_even() as usize;
        let mut counts: Vec<usize> = odds.iter().map(count).collect();
        let missing = n_batches.saturating_sub(counts.iter().sum());
        if let Some(last) = counts.last_mut() {
            *last += missing;
        }
        counts
    }
}

/// `n` in `n_parts` parts that differ by one at most, the larger first.
fn divide_evenly(mut n: usize, n_parts: usize) -> Vec<usize> {
    let part = |left| {
        let size = n.div_ceil(left);
        n -= size;
        size
    };
    (1..=n_parts).rev().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_batches_are_an_error() {
        let natural = VslCurriculum::Natural;
        assert!(matches!(natural.batch_indices(&[], 0), Err(Error::Curriculum { .. })));
        assert!(natural.batch_indices(&[(8, 3), (16, 0)], 0).is_err());
        assert_eq!(natural.batches_per_bucket(&[(8, 9)], 4), [(8, 0)]);
        let grow = VslCurriculum::GrowP2 { num_cycles: 0, balanced: true };
        assert_eq!(grow.batches_per_bucket(&[(8, 9)], 8), [(8, 0)]);
    }

    #[test]
    fn parts_differ_by_one() {
        assert_eq!(divide_evenly(10, 4), [3, 3, 2, 2]);
        assert_eq!(divide_evenly(2, 3), [1, 1, 0]);
    }
}
