//! Rows of a left operand that are multiplied together.

use std::ops::{Deref, Range};

use super::input::Input;
use super::isa::Isa;
use super::layout;
use super::{BLOCK_ROWS, FEW_ROWS};

/// Units that are laid out at a time, 16 MB: the rows of a training step may have hundreds.
const LAID_OUT: usize = 1 << 22;

/// Some rows of an [`Input`], as a kernel reads them.
pub(super) struct Part<'a> {
    input: &'a Input<'a>,
    pub(super) rows: Range<usize>,
    pub(super) layout: Layout,
}

/// How they lie.
pub(super) enum Layout {
    /// Where the input has them.
    InPlace,
    /// Elements of f32, in [strips](layout::strips).
    Strips(Vec<f32>),
    /// Pairs, in strips.
    PairStrips(Vec<u32>),
    /// Pairs, in [tiles](layout::tiles).
    PairTiles(Vec<u32>),
}

impl<'a> Part<'a> {
    fn new(input: &'a Input<'a>, rows: Range<usize>) -> Self {
        let layout = match input.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 { amx, .. } if rows.len() > FEW_ROWS => {
                let (k, units) = (input.k, input.k.div_ceil(2));
                if !input.pairs.is_empty() {
                    let pairs = &input.pairs[rows.start * units..rows.end * units];
                    if amx {
                        Layout::PairTiles(layout::tiles(pairs, units))
                    } else {
                        Layout::PairStrips(layout::strips(pairs, units))
                    }
                } else if !input.f32.is_empty() {
                    let elements = &input.f32[rows.start * k..rows.end * k];
                    Layout::Strips(layout::strips(elements, k))
                } else {
                    Layout::InPlace
                }
            }
            _ => Layout::InPlace,
        };
        Self { input, rows, layout }
    }

    /// The rows in blocks.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.rows;
        (start..end).step_by(BLOCK_ROWS).map(move |first| first..end.min(first + BLOCK_ROWS))
    }
}

impl Input<'_> {
    /// The rows, as many at a time as are laid out together.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let at_once = LAID_OUT / self.k.max(1) / BLOCK_ROWS * BLOCK_ROWS;
        let at_once = at_once.max(BLOCK_ROWS);
        (0..self.n_rows)
            .step_by(at_once)
            .map(move |first| Part::new(self, first..self.n_rows.min(first + at_once)))
    }
}

impl<'a> Deref for Part<'a> {
    type Target = Input<'a>;

    fn deref(&self) -> &Input<'a> {
        self.input
    }
}
