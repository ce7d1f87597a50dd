//! Products `x wᵀ` of row-major matrices, with weights in the type that they are held in.
//!
//! Weights `[d_out, d_in]` are multiplied a [`panel`] at a time, in the order of additions that PyTorch
//! has on the same processor: one after the other, and in bf16 with AMX as tiles add. They come row-major, as parameters are, and are transposed a few rows at a time, or packed as
//! panels in memory; quantised ones, which have no such model, are multiplied as [`integers`]. Each
//! element of the result is the same sequence of additions whatever the number of rows, columns and
//! threads, so that a token decoded alone has the bits that it has in a prompt.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod columns;
mod input;
mod integers;
mod isa;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(
        dead_code,
        unused_imports,
        reason = "rows are laid out for the vectors of that processor"
    )
)]
mod layout;
mod multiply;
mod normed;
mod panel;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(
        dead_code,
        unused_imports,
        reason = "rows are laid out for the vectors of that processor"
    )
)]
mod part;
mod product;
mod rounded;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;

use crate::packed::{Panels, Step, Values, WIDTH};

use self::isa::Isa;

pub(super) use input::Input;
pub(super) use product::{add_linear, gated, linears};
pub(super) use rows::Rows;

/// Whether bf16 is multiplied in tiles on this machine.
#[cfg(test)]
pub(crate) fn multiplies_tiles() -> bool {
    Isa::detect().tiles()
}

/// Rows of `x` multiplied at a time.
const BLOCK_ROWS: usize = 256;
/// Units of a row multiplied at a time, f32 or pairs of bf16: half a first-level cache of panel.
const BLOCK_UNITS: usize = 128;
/// Rows of `x` that a whole panel is read for in one go: there is nothing to keep it in the cache for.
const FEW_ROWS: usize = 2;

/// Rows of equal length with a stride between their starts.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a, T> {
    pub(super) values: &'a [T],
    pub(super) stride: usize,
}

impl<'a, T> Strided<'a, T> {
    fn at(values: &'a [T], stride: usize, row: usize, column: usize) -> Self {
        Self { values: &values[row * stride + column..], stride }
    }

    /// The first `k` elements of a row.
    pub(super) fn row(&self, row: usize, k: usize) -> &'a [T] {
        &self.values[row * self.stride..][..k]
    }

    /// Panics unless `rows` rows hold `k` elements each.
    fn check(&self, rows: usize, k: usize) {
        assert!(rows.saturating_sub(1) * self.stride + k <= self.values.len());
    }
}

/// Memory of a thread's work, kept from one product to the next.
#[derive(Default)]
pub(super) struct Scratch {
    widened: Vec<f32>,
    panel: Vec<Step<f32>>,
    pairs: Vec<Step<u32>>,
    part: Vec<f32>,
}

/// The right operand of a product, `[n_columns, k]`.
#[derive(Clone, Copy)]
pub(super) enum Weight<'a> {
    Rows(Rows<'a>),
    /// Its transpose, `[k, n_columns]`.
    Columns(Rows<'a>),
    Packed(&'a Panels),
}

impl Weight<'_> {
    /// Columns of the product, with rows of `k` elements.
    pub(super) fn n_columns(&self, k: usize) -> usize {
        match self {
            Self::Rows(rows) | Self::Columns(rows) => rows.len().checked_div(k).unwrap_or(0),
            Self::Packed(panels) => panels.d_out,
        }
    }

    fn is_quantized(&self) -> bool {
        matches!(self, Self::Packed(Panels { values: Values::Quantized(_), .. }))
    }
}

/// Lays out `length` elements of up to [`WIDTH`] rows as a panel.
fn pack_panel(
    isa: Isa,
    w: Strided<'_, f32>,
    n_rows: usize,
    length: usize,
    panel: &mut Vec<Step<f32>>,
) {
    panel.resize(length, Step([0.0; WIDTH]));
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` found the instructions.
        Isa::Avx512 { .. } => unsafe { avx512::pack_f32(w, n_rows, panel) },
        Isa::Portable => panel::pack(w, n_rows, panel),
    }
}

/// Products of `n_rows` rows with `n_columns` others, `k` long, written to rows of `out` that begin
/// `stride` apart, on this thread.
pub(super) fn small(
    x: Strided<'_, f32>,
    w: Strided<'_, f32>,
    [n_rows, n_columns, k]: [usize; 3],
    out: &mut [f32],
    stride: usize,
    scratch: &mut Scratch,
) {
    let isa = Isa::detect();
    for first in (0..n_columns).step_by(WIDTH) {
        let n = WIDTH.min(n_columns - first);
        let w = Strided::at(w.values, w.stride, first, 0);
        let sums = &mut scratch.part;
        sums.clear();
        sums.resize(n_rows * WIDTH, 0.0);
        pack_panel(isa, w, n, k, &mut scratch.panel);
        let panel = &scratch.panel[..];
        pulp::Arch::new().dispatch(panel::Multiply { x, n_rows, panel, sums });
        let rows = out[first..].chunks_mut(stride);
        for (out, sums) in rows.zip(sums.chunks_exact(WIDTH)) {
            out[..n].copy_from_slice(&sums[..n]);
        }
    }
}
