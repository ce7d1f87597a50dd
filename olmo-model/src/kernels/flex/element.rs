//! The floating-point types that the kernels read and write; they compute in f32.

use burn::tensor::Element as BurnElement;
use half::{bf16, f16};

/// A type of weights and activations.
pub(super) trait Element: BurnElement + bytemuck::Pod + Default + Send + Sync {
    /// The value, exactly.
    fn widen(self) -> f32;
    /// The nearest value; of two, the even one.
    fn narrow(x: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // Without a branch, so that a loop over it becomes vector code.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        let quiet_nan = (bits >> 16) | 0x40;
        Self::from_bits(if x.is_nan() { quiet_nan } else { rounded } as u16)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        // Without a branch and without asking for the processor's instruction each time, so that a
        // loop over it becomes vector code. The exponents of the two types differ by 112; numbers
        // below the normal ones of f16 come out right because the product is exact for them too.
        const BY_2_TO_THE_112: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.to_bits());
        let finite = f32::from_bits((bits & 0x7FFF) << 13) * BY_2_TO_THE_112;
        let not_finite = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
        f32::from_bits(finite.to_bits() | not_finite | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        Self::from_f32(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_widens_as_the_half_crate_does() {
        for x in (0..=u16::MAX).map(f16::from_bits) {
            let (found, expected) = (Element::widen(x), x.to_f32());
            assert!(found.to_bits() == expected.to_bits() || x.is_nan() && found.is_nan(), "{x:?}");
        }
    }

    #[test]
    fn bf16_rounds_as_the_half_crate_does() {
        let patterns = (0..=u32::from(u16::MAX)).flat_map(|high| {
            [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF].map(|low| f32::from_bits((high << 16) | low))
        });
        for x in patterns {
            let (found, expected) = (<bf16 as Element>::narrow(x), bf16::from_f32(x));
            assert_eq!(found.to_bits(), expected.to_bits(), "{x:e} ({:#x})", x.to_bits());
            if !x.is_nan() {
                assert_eq!(Element::widen(expected).to_bits(), expected.to_f32().to_bits());
            }
        }
    }
}
