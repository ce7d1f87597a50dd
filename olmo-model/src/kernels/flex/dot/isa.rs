//! The instructions that products are made with, found at run time.

#[cfg(target_arch = "x86_64")]
use super::amx;

/// The instructions to multiply with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512 {
        /// With products of pairs of bf16.
        bf16: bool,
        /// With those of tiles of them.
        amx: bool,
        /// With products of four numbers of eight bits.
        vnni: bool,
    },
    Portable,
}

impl Isa {
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            let bf16 = is_x86_feature_detected!("avx512bf16");
            let vnni = is_x86_feature_detected!("avx512vnni");
            let amx = bf16 && amx::is_available();
            return Self::Avx512 { bf16, amx, vnni };
        }
        Self::Portable
    }

    /// Whether bf16 is multiplied two elements at a time.
    pub(super) fn pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 { bf16, .. } => bf16,
            Self::Portable => false,
        }
    }

    /// Whether bf16 is multiplied in tiles.
    #[cfg(test)]
    pub(super) fn tiles(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 { amx, .. } => amx,
            Self::Portable => false,
        }
    }
}
