//! How many tokens of each file a mixture takes, by the ratios of its sources.
//!
//! Matches `SourceMixtureDatasetConfig.build` of `olmo_core/data/source_mixture.py`: each source
//! gives its ratio of the tokens asked for, the same part of each of its files, over again where it
//! has too few and may be repeated. Counts are then brought to whole instances that fill whole
//! batches: first down, then what is missing shared evenly, and the last few by the largest
//! remainders (Hamilton's method).

use crate::{Error, Result};

/// A source of a mixture.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureSource {
    /// Its name.
    pub name: String,
    /// Its share of the mixture, more than 0 and at most 1; all together 1.
    pub target_ratio: f64,
    /// How often its tokens may be taken, 1 or more.
    pub max_repetition_ratio: f64,
    /// The largest part of its tokens that may be used.
    pub max_source_fraction: f64,
    /// Tokens of each of its files.
    pub n_tokens: Vec<u64>,
}

/// What is taken of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MixturePath {
    /// Number of the source.
    pub source: usize,
    /// Number of the file in its source.
    pub file: usize,
    /// Tokens from the beginning of the file.
    pub n_tokens: u64,
}

/// The parts of a mixture of `requested_tokens`, in the order in which its files are read; a file
/// that is repeated is there more than once.
///
/// # Errors
///
/// [`Error::Mixture`] where ratios do not add up to 1 or are out of range, a source has too few
/// tokens for its share, or the batch is no multiple of the sequence length.
pub fn mixture(
    sources: &[MixtureSource],
    requested_tokens: u64,
    global_batch_size: u64,
    sequence_length: u64,
) -> Result<Vec<MixturePath>> {
    check(sources, requested_tokens, global_batch_size, sequence_length)?;
    let mut parts = Vec::new();
    let mut max_tokens = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let population: u64 = source.n_tokens.iter().sum();
        let needed = (requested_tokens as f64 * source.target_ratio) as u64;
        let most =
            (population as f64 * source.max_source_fraction * source.max_repetition_ratio) as u64;
        if most < needed {
            return Err(Error::Mixture {
                reason: format!(
                    "source {:?} may give {most} tokens, but its ratio of {} asks for {needed}",
                    source.name, source.target_ratio
                ),
            });
        }
        // Rounds of the whole source, and a part of it at the end.
        let mut left = needed as f64 / population as f64;
        loop {
            let ratio = left.min(1.0);
            for (file, &available) in source.n_tokens.iter().enumerate() {
                let n_tokens = (available as f64 * ratio).ceil() as u64;
                parts.push(MixturePath { source: number, file, n_tokens });
                max_tokens.push(available);
            }
            left -= ratio;
            if left <= 0.0 {
                break;
            }
        }
    }
    let instances_per_batch = global_batch_size / sequence_length;
    let steps = (requested_tokens as f64 / global_batch_size as f64).ceil() as u64;
    let limits: Vec<u64> = max_tokens.iter().map(|max| max / sequence_length).collect();
    round_to_instances(&mut parts, &limits, steps * instances_per_batch, sequence_length);
    Ok(parts)
}

/// Makes each count a multiple of the sequence length, of `requested` instances in all if possible.
fn round_to_instances(
    parts: &mut [MixturePath],
    limits: &[u64],
    requested: u64,
    sequence_length: u64,
) {
    let mut remainders = Vec::new();
    let mut counts: Vec<u64> = Vec::new();
    for (part, &limit) in parts.iter().zip(limits) {
        let count = (part.n_tokens / sequence_length).min(limit);
        let remainder = (part.n_tokens % sequence_length) as f64 / sequence_length as f64;
        remainders.push(if count < limit { remainder } else { 0.0 });
        counts.push(count);
    }
    let missing = |counts: &[u64]| requested.saturating_sub(counts.iter().sum());
    let eligible: Vec<usize> = (0..counts.len()).filter(|&i| counts[i] < limits[i]).collect();
    if let Some(share) = missing(&counts).checked_div(eligible.len() as u64) {
        for &i in &eligible {
            counts[i] += share.min(limits[i] - counts[i]);
        }
    }
    let mut candidates: Vec<usize> =
        eligible.into_iter().filter(|&i| counts[i] < limits[i]).collect();
    // Larger remainders first, and of equal ones the later part, as tuples sort in Python.
    candidates.sort_by(|&a, &b| remainders[b].total_cmp(&remainders[a]).then(b.cmp(&a)));
    for i in candidates.into_iter().take(missing(&counts) as usize) {
        counts[i] += 1;
    }
    for (part, count) in parts.iter_mut().zip(counts) {
        part.n_tokens = count * sequence_length;
    }
}

fn check(
    sources: &[MixtureSource],
    requested_tokens: u64,
    global_batch_size: u64,
    sequence_length: u64,
) -> Result<()> {
    let wrong = |reason: String| Err(Error::Mixture { reason });
    let sum: f64 = sources.iter().map(|source| source.target_ratio).sum();
    if (sum - 1.0).abs() > 1e-5 {
        return wrong(format!("the target ratios add up to {sum}, expected 1"));
    }
    if requested_tokens == 0 {
        return wrong("no tokens are requested, expected at least 1".to_owned());
    }
    if sequence_length == 0
        || global_batch_size == 0
        || !global_batch_size.is_multiple_of(sequence_length)
    {
        return wrong(format!(
            "a batch of {global_batch_size} tokens is no positive multiple of the sequence length \
             {sequence_length}"
        ));
    }
    for source in sources {
        let MixtureSource { name, target_ratio, max_repetition_ratio, max_source_fraction, .. } =
            source;
        if !(*target_ratio > 0.0 && *target_ratio <= 1.0) {
            return wrong(format!("target_ratio of {name:?} is {target_ratio}, expected 0 to 1"));
        }
        if !(*max_repetition_ratio >= 1.0 && max_repetition_ratio.is_finite()) {
            return wrong(format!(
                "max_repetition_ratio of {name:?} is {max_repetition_ratio}, expected at least 1"
            ));
        }
        if !(*max_source_fraction > 0.0 && *max_source_fraction <= 1.0) {
            return wrong(format!(
                "max_source_fraction of {name:?} is {max_source_fraction}, expected 0 to 1"
            ));
        }
        if source.n_tokens.iter().sum::<u64>() == 0 {
            return wrong(format!("source {name:?} has no tokens"));
        }
    }
    Ok(())
}
