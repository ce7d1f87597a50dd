//! Log-probabilities of the next token.

/// Log-probabilities under the distribution that logits stand for, without temperature or filters.
#[derive(Debug, Clone, Copy)]
pub struct LogProbs<'a> {
    logits: &'a [f32],
    /// `ln Σ exp(logit)`.
    log_sum: f64,
}

impl<'a> LogProbs<'a> {
    /// Those of the given logits, which are finite.
    pub fn new(logits: &'a [f32]) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        Self { logits, log_sum: max + sum.ln() }
    }

    /// That of one token; `None` where there is no such token.
    pub fn of(&self, id: u32) -> Option<f64> {
        self.logits.get(id as usize).map(|&x| f64::from(x) - self.log_sum)
    }

    /// The `n` likeliest tokens, the likeliest first, of equals the lower id.
    pub fn top(&self, n: usize) -> Vec<(u32, f64)> {
        let likelier_first =
            |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let mut ids: Vec<_> = self.logits.iter().enumerate().map(|(i, &x)| (i as u32, x)).collect();
        if n < ids.len() {
            ids.select_nth_unstable_by(n, likelier_first);
            ids.truncate(n);
        }
        ids.sort_unstable_by(likelier_first);
        ids.into_iter().map(|(id, x)| (id, f64::from(x) - self.log_sum)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_logarithms_of_the_softmax() {
        let logits = [1000.0_f32, 1000.0 + std::f32::consts::LN_2, 999.0, 1000.0];
        let log_probs = LogProbs::new(&logits);
        let sum: f64 = (0..4).filter_map(|id| log_probs.of(id)).map(f64::exp).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        // At 1000 an f32 has steps of 6e-5.
        let apart = log_probs.of(1).expect("there") - log_probs.of(0).expect("there");
        assert!((apart - std::f64::consts::LN_2).abs() < 1e-4, "{apart}");
        assert_eq!(log_probs.of(4), None);
        let ids = |n| log_probs.top(n).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!((ids(0), ids(2), ids(9)), (vec![], vec![1, 0], vec![1, 0, 3, 2]));
    }
}
