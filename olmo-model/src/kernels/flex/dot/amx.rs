//! Products of bf16 with AMX: tiles of 16 rows of 32 elements, multiplied by one instruction.
//!
//! Panels and rows of pairs are tiles as they are. A tile of a panel is [`UNITS`] of its steps: each of
//! its rows holds the pairs of 16 columns. Of a tile of each operand the instruction adds up the
//! products of the upper halves and those of the lower, each in order, and adds the sum of both to the
//! total. That is another order than that of vectors, so few rows are multiplied in tiles too, which are
//! then not filled: the bits of a row do not depend on how many there are.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::sync::OnceLock;

use super::Strided;
use super::layout::TILE as UNITS;
use crate::packed::{Step, WIDTH};

/// Bytes of a step, and of a row of sums.
const ROW_BYTES: usize = 4 * WIDTH;
/// Bytes that memory gives at once.
const LINE_BYTES: usize = 64;
/// Lines that are fetched ahead in one go.
const MAX_LINES: usize = 64;

/// Whether the processor has the instructions, and the system lets this process have their registers.
/// It is asked once. With `OLMO_AMX=off` in the environment the answer is no: products have the bits
/// then that they have on a processor without.
pub(super) fn is_available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let is_wanted = || std::env::var_os("OLMO_AMX").is_none_or(|value| value != "off");
    *FOUND.get_or_init(|| is_wanted() && is_supported() && is_permitted())
}

/// Whether the processor has tiles and their products of bf16, and the system saves them.
fn is_supported() -> bool {
    use std::arch::x86_64::{__cpuid_count, _xgetbv};
    const OSXSAVE: u32 = 1 << 27;
    const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
    const TILE_STATE: u64 = 1 << 18 | 1 << 17;
    #[target_feature(enable = "xsave")]
    fn saved_states() -> u64 {
        // SAFETY: the function is called where the system has turned the instruction on.
        unsafe { _xgetbv(0) }
    }
    #[allow(unused_unsafe, reason = "the function is safe in newer versions of Rust")]
    // SAFETY: every processor of 64 bits has the instruction.
    let leaf = |leaf| unsafe { __cpuid_count(leaf, 0) };
    if leaf(0).eax < 7 || leaf(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // SAFETY: the system has turned the instruction on.
    let is_saved = unsafe { saved_states() } & TILE_STATE == TILE_STATE;
    is_saved && leaf(7).edx & TILES_AND_BF16 == TILES_AND_BF16
}

/// Asks the system for the tiles' registers: Linux saves them only of processes that did.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const REQUEST_STATE: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers and no address.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Rows of pairs, from a unit on.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    /// That lie as they come.
    InPlace(Strided<'a, u32>),
    /// In [tiles](super::layout::tiles), of rows of `length` units; `start` is a multiple of a tile's.
    Tiles { tiles: &'a [u32], length: usize, start: usize },
}

impl Rows<'_> {
    fn check(&self, n_rows: usize, n_units: usize) {
        match self {
            Self::InPlace(rows) => rows.check(n_rows, n_units),
            Self::Tiles { tiles, length, start } => {
                assert!(start % UNITS == 0 && start + n_units <= *length);
                assert!(n_rows * length <= tiles.len());
            }
        }
    }

    /// The tiles of up to [`UNITS`] rows from row `row` on, `n_units` wide and from unit `start` on.
    fn tiles(&self, [row, n_rows]: [usize; 2], start: usize, n_units: usize) -> Tiles {
        // Nothing is read of rows that are not there.
        let at = |values: &[u32], index| values.as_ptr().wrapping_add(index);
        match *self {
            Self::InPlace(Strided { values, stride }) => Tiles {
                first: at(values, row * stride + start),
                row_bytes: 4 * stride,
                tile_bytes: 4 * UNITS,
            },
            Self::Tiles { tiles, length, start: first } => Tiles {
                first: at(tiles, row * length + (first + start) * n_rows),
                row_bytes: 4 * n_units,
                tile_bytes: 4 * UNITS * n_rows,
            },
        }
    }
}

/// Tiles of some rows, one after the other.
#[derive(Clone, Copy)]
struct Tiles {
    first: *const u32,
    /// From one row of a tile to the next.
    row_bytes: usize,
    /// From one tile to the next.
    tile_bytes: usize,
}

/// As [`avx512::multiply_bf16`](super::avx512::multiply_bf16), in the order of tiles. Fetches what lies
/// behind the panel, as much as the panel is, where that `is_next`.
///
/// # Safety
///
/// The registers [are available](is_available).
pub(super) unsafe fn multiply(
    x: Rows<'_>,
    n_rows: usize,
    panel: &[Step<u32>],
    is_next: bool,
    sums: &mut [f32],
) {
    x.check(n_rows, panel.len());
    assert!(sums.len() >= n_rows * WIDTH);
    let n_lines = size_of_val(panel) / LINE_BYTES / n_rows.div_ceil(2 * UNITS).max(1);
    let n_lines = if is_next { n_lines.min(MAX_LINES) } else { 0 };
    let n_tiles = panel.len() / UNITS;
    let parts = [(0, n_tiles, UNITS), (n_tiles * UNITS, 1, panel.len() % UNITS)];
    let mut loaded = None;
    for (start, n_tiles, n_units) in parts {
        if n_tiles == 0 || n_units == 0 {
            continue;
        }
        for row in (0..n_rows).step_by(2 * UNITS) {
            if start == 0 {
                fetch(panel.as_ptr_range().end, row / (2 * UNITS) * n_lines, n_lines);
            }
            let n = (2 * UNITS).min(n_rows - row);
            let (first, second) = (n.min(UNITS), n.saturating_sub(UNITS));
            // SAFETY: the registers are available by the contract of this function; the rows, the part of
            // the panel and the sums are there by the assertions above.
            unsafe {
                if loaded.replace((n, n_units)) != Some((n, n_units)) {
                    Shapes::new(n, n_units).load();
                }
                let block = Block {
                    x: [([row, first]), ([row + first, second])]
                        .map(|rows| x.tiles(rows, start, n_units)),
                    panel: panel.as_ptr().add(start),
                    n_tiles,
                    sums: sums.as_mut_ptr().add(row * WIDTH),
                };
                if second > 0 { block.multiply_two() } else { block.multiply_one() }
            }
        }
    }
    // SAFETY: as above; nothing is left in the registers.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Has `n` lines from the line `first` behind `start` brought to the second-level cache.
fn fetch(start: *const Step<u32>, first: usize, n: usize) {
    for line in first..first + n {
        let line = start.cast::<i8>().wrapping_add(line * LINE_BYTES);
        // SAFETY: a hint, which reads nothing, and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
    }
}

/// Rows and bytes of a row of the eight registers, as the processor reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Of sums in 0 to 3, of up to two tiles of `x` in 4 and 5, of two tiles of a panel in 6 and 7:
    /// `n_rows` rows of `x`, of which the second tile has those from the 17th on, and `n_units` units.
    fn new(n_rows: usize, n_units: usize) -> Self {
        let mut shapes =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let (first, second) = (n_rows.min(UNITS), n_rows.saturating_sub(UNITS));
        let sums = [first, first, second, second].map(|rows| (rows, UNITS));
        let operands = [(first, n_units), (second, n_units), (n_units, UNITS), (n_units, UNITS)];
        for (i, (rows, units)) in sums.into_iter().chain(operands).enumerate() {
            if rows > 0 {
                (shapes.rows[i], shapes.row_bytes[i]) = (rows as u8, 4 * units as u16);
            }
        }
        shapes
    }

    /// # Safety
    ///
    /// The registers [are available](is_available).
    unsafe fn load(&self) {
        // SAFETY: by the contract of this function; the instruction reads the 64 bytes of `self`.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) self, options(nostack, readonly),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            );
        }
    }
}

/// One or two tiles high and two wide.
struct Block {
    x: [Tiles; 2],
    panel: *const Step<u32>,
    /// Tiles one after the other in the rows and in the panel.
    n_tiles: usize,
    sums: *mut f32,
}

impl Block {
    /// # Safety
    ///
    /// [`Shapes`] of more than [`UNITS`] rows are loaded, and as many of `x` and `sums` are there.
    unsafe fn multiply_two(self) {
        // SAFETY: by the contract of this function.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {row}]",
                "tileloadd tmm1, [{sums} + {row} + 64]",
                "tileloadd tmm2, [{sums_2} + {row}]",
                "tileloadd tmm3, [{sums_2} + {row} + 64]",
                "2:",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{panel} + {row}]",
                "tileloadd tmm7, [{panel} + {row} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x_2} + {stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x}, {x_tile}",
                "add {x_2}, {x_2_tile}",
                "add {panel}, {tile}",
                "dec {n}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 64], tmm1",
                "tilestored [{sums_2} + {row}], tmm2",
                "tilestored [{sums_2} + {row} + 64], tmm3",
                x = inout(reg) self.x[0].first => _,
                x_2 = inout(reg) self.x[1].first => _,
                x_tile = in(reg) self.x[0].tile_bytes,
                x_2_tile = in(reg) self.x[1].tile_bytes,
                stride = in(reg) self.x[0].row_bytes,
                panel = inout(reg) self.panel => _,
                row = in(reg) ROW_BYTES,
                tile = const UNITS * ROW_BYTES,
                n = inout(reg) self.n_tiles => _,
                sums = in(reg) self.sums,
                sums_2 = in(reg) self.sums.add(UNITS * WIDTH),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// # Safety
    ///
    /// [`Shapes`] of up to [`UNITS`] rows are loaded, and as many of `x` and `sums` are there.
    unsafe fn multiply_one(self) {
        // SAFETY: by the contract of this function.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {row}]",
                "tileloadd tmm1, [{sums} + {row} + 64]",
                "2:",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{panel} + {row}]",
                "tileloadd tmm7, [{panel} + {row} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {x}, {x_tile}",
                "add {panel}, {tile}",
                "dec {n}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 64], tmm1",
                x = inout(reg) self.x[0].first => _,
                x_tile = in(reg) self.x[0].tile_bytes,
                stride = in(reg) self.x[0].row_bytes,
                panel = inout(reg) self.panel => _,
                row = in(reg) ROW_BYTES,
                tile = const UNITS * ROW_BYTES,
                n = inout(reg) self.n_tiles => _,
                sums = in(reg) self.sums,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
