//! Arithmetic on rows that the compiler turns into vector instructions.
//!
//! Sums run in [`LANES`] independent partial sums, in an order that depends on nothing but the
//! row's length.

/// Partial results kept side by side: one AVX-512 register, two AVX registers.
const LANES: usize = 16;

/// Runs `f`, which is to be marked `#[inline(always)]`, with the widest vector instructions of the machine.
///
/// A closure that is called by value has a function of its own around it, which is not inlined where it
/// is large and knows of no vector instructions. Called by reference it has none.
#[inline(always)]
pub(super) fn vectorized<R>(f: impl FnMut() -> R) -> R {
    struct Vectorized<F>(F);

    impl<R, F: FnMut() -> R> pulp::WithSimd for Vectorized<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }

    pulp::Arch::new().dispatch(Vectorized(f))
}

/// Sum of `f` over a row.
#[inline(always)]
pub(super) fn sum(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    folded(lanes) + rest.iter().map(|x| f(*x)).sum::<f32>()
}

/// Sum of `f` over two rows of the same length.
#[inline(always)]
pub(super) fn sum_pairs(xs: &[f32], ys: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (x_chunks, x_rest) = xs.as_chunks::<LANES>();
    let (y_chunks, y_rest) = ys.as_chunks::<LANES>();
    for (x_chunk, y_chunk) in x_chunks.iter().zip(y_chunks) {
        for i in 0..LANES {
            lanes[i] += f(x_chunk[i], y_chunk[i]);
        }
    }
    folded(lanes) + x_rest.iter().zip(y_rest).map(|(x, y)| f(*x, *y)).sum::<f32>()
}

/// The largest element; minus infinity for an empty row. A NaN is passed over.
#[inline(always)]
pub(super) fn max(xs: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}

#[inline(always)]
fn folded(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `e^x` to within two units in the last place; 0 below -87.3, infinity above 88.7, NaN for NaN.
///
/// Cephes' `expf`: `x = n ln 2 + r`, a polynomial in `r`, and `n` added to the exponent. Written
/// without calls, branches or conversions, so that a loop over it becomes vector code.
#[inline(always)]
#[allow(clippy::excessive_precision, reason = "the published coefficients, as published")]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.7 { 88.7 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_375 + n * 2.121_944_40e-4;
    let mut p = 1.987_569_150_0e-4;
    p = p * r + 1.398_199_950_7e-3;
    p = p * r + 8.333_451_907_3e-3;
    p = p * r + 4.166_579_589_4e-2;
    p = p * r + 1.666_666_545_9e-1;
    p = p * r + 5.000_000_120_1e-1;
    let y = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let y = y * f32::from_bits(exponent);
    let y = if x < -87.3 { 0.0 } else { y };
    if x > 88.7 { f32::INFINITY } else { y }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for i in 0..2_000_000 {
            let x = -87.0 + i as f32 * (175.0 / 2_000_000.0);
            let exact = f64::from(x).exp();
            let ulp = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / ulp);
        }
        assert!(worst < 2.0, "{worst}");
        for (x, expected) in [
            (-1000.0, 0.0),
            (f32::NEG_INFINITY, 0.0),
            (0.0, 1.0),
            (1000.0, f32::INFINITY),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(exp(x).to_bits(), f32::to_bits(expected), "exp({x})");
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_cover_every_element() {
        // Small whole numbers, so that every order of summation gives the same bits.
        for n in [1, 15, 16, 17, 100] {
            let xs: Vec<f32> = (0..n).map(|i| (i * 7 % 11) as f32).collect();
            let found = [sum(&xs, |x| 2.0 * x), sum_pairs(&xs, &xs, |x, y| x * y), max(&xs)];
            let double: f32 = xs.iter().map(|x| 2.0 * x).sum();
            let dot: f32 = xs.iter().map(|x| x * x).sum();
            let largest = xs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(found.map(f32::to_bits), [double, dot, largest].map(f32::to_bits));
        }
        assert_eq!(sum(&[], |x| x).to_bits(), 0.0_f32.to_bits());
    }
}
