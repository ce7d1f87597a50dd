//! Entropy to generator states: NumPy's `SeedSequence`.
//!
//! A pool of four 32-bit words is filled from the entropy by a hash whose multiplier changes with
//! every use, each word is mixed into each other, and states are drawn by a second such hash.
//! After M. E. O'Neill's `seed_seq_fe`. There is no spawning here: nothing in the data order uses
//! it.

const POOL_SIZE: usize = 4;
const XSHIFT: u32 = 16;
const INIT_A: u32 = 0x43b0_d7e5;
const MULT_A: u32 = 0x931e_8875;
const INIT_B: u32 = 0x8b51_f9dd;
const MULT_B: u32 = 0x58f3_8ded;
const MIX_MULT_L: u32 = 0xca01_f9dd;
const MIX_MULT_R: u32 = 0x4973_f715;

/// A pool of entropy that gives well-mixed states for generators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedSequence {
    pool: [u32; POOL_SIZE],
}

impl SeedSequence {
    /// The sequence of an integer seed, `np.random.SeedSequence(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        // A seed is cut into 32-bit words, low first, without leading zeros.
        if high == 0 { Self::from_words(&[low]) } else { Self::from_words(&[low, high]) }
    }

    /// The sequence of a list of 32-bit words, `np.random.SeedSequence([...])`.
    pub fn from_words(entropy: &[u32]) -> Self {
        let mut hash = Hash { constant: INIT_A, multiplier: MULT_A };
        let mut pool = [0; POOL_SIZE];
        for (i, word) in pool.iter_mut().enumerate() {
            *word = hash.next(entropy.get(i).copied().unwrap_or(0));
        }
        for source in 0..POOL_SIZE {
            for target in (0..POOL_SIZE).filter(|&target| target != source) {
                pool[target] = mix(pool[target], hash.next(pool[source]));
            }
        }
        for &word in entropy.iter().skip(POOL_SIZE) {
            for target in &mut pool {
                *target = mix(*target, hash.next(word));
            }
        }
        Self { pool }
    }

    /// `n_words` words of state, `generate_state(n_words, np.uint32)`.
    pub fn generate_u32(&self, n_words: usize) -> Vec<u32> {
        let mut hash = Hash { constant: INIT_B, multiplier: MULT_B };
        self.pool.iter().cycle().take(n_words).map(|&word| hash.next(word)).collect()
    }

    /// `n_words` words of state, `generate_state(n_words, np.uint64)`.
    pub fn generate_u64(&self, n_words: usize) -> Vec<u64> {
        self.generate_u32(2 * n_words)
            .chunks_exact(2)
            .map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32)
            .collect()
    }
}

/// A hash whose constant moves on with every word.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn next(&mut self, value: u32) -> u32 {
        let value = value ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let value = value.wrapping_mul(self.constant);
        value ^ value >> XSHIFT
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let value = MIX_MULT_L.wrapping_mul(x).wrapping_sub(MIX_MULT_R.wrapping_mul(y));
    value ^ value >> XSHIFT
}
