//! MT19937, the Mersenne Twister of 32-bit words, as torch and Python have it.

/// Words of the state.
const N: usize = 624;
/// How far apart the words are that are mixed.
const M: usize = 397;

/// MT19937, a generator of 32-bit words.
pub(super) struct Mt19937 {
    state: [u32; N],
    /// The next word of the state to be given out.
    at: usize,
}

impl Mt19937 {
    /// Begun as by Knuth from the low 32 bits of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = [seed as u32; N];
        for j in 1..N {
            let before = state[j - 1] ^ (state[j - 1] >> 30);
            state[j] = before.wrapping_mul(1_812_433_253).wrapping_add(j as u32);
        }
        Self { state, at: N }
    }

    /// Begun from words of any number, the reference's `init_by_array`.
    pub(super) fn from_words(words: &[u32]) -> Self {
        let mut state = Self::new(19_650_218).state;
        let mixed = |state: &[u32; N], i: usize, factor: u32| {
            state[i] ^ (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(factor)
        };
        // Sets a word and goes on to the next; the first is the last once more.
        let set = |state: &mut [u32; N], i: usize, word: u32| {
            state[i] = word;
            if i + 1 < N {
                return i + 1;
            }
            state[0] = word;
            1
        };
        let mut at = 1;
        for k in 0..N.max(words.len()) {
            let j = k % words.len();
            let word = mixed(&state, at, 1_664_525).wrapping_add(words[j]).wrapping_add(j as u32);
            at = set(&mut state, at, word);
        }
        for _ in 1..N {
            let word = mixed(&state, at, 1_566_083_941).wrapping_sub(at as u32);
            at = set(&mut state, at, word);
        }
        state[0] = 1 << 31;
        Self { state, at: N }
    }

    /// The next word.
    pub(super) fn next_u32(&mut self) -> u32 {
        if self.at == N {
            for k in 0..N {
                let joined =
                    (self.state[k] & 0x8000_0000) | (self.state[(k + 1) % N] & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[k] = self.state[(k + M) % N] ^ (joined >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}
