//! NumPy's random numbers, bit for bit: `np.random.Generator(np.random.PCG64(seed))`; and torch's
//! and Python's permutations.
//!
//! The order of training data is defined by NumPy's shuffle, so a run can be repeated or resumed
//! only by a generator that agrees with it on every draw. [`SeedSequence`] turns a seed into a
//! state, [`Pcg64`] turns a state into a stream of bits, and [`Generator`] turns bits into
//! shuffles and numbers. [`ShuffledRange`] answers about a few places of a large shuffle without making
//! it.
//!
//! Evaluation data are in an order of torch's, [`torch_permutation`]; files of OLMo-core's datasets may be in
//! one of Python's, [`python_shuffle`].
//!
//! Matches NumPy 1.17 and later (the `Generator` interface), checked against NumPy 2.4.6.

mod draws;
mod generator;
mod mt19937;
mod pcg64;
mod python;
mod seed_sequence;
mod shuffled_range;
mod torch;

pub use generator::Generator;
pub use pcg64::Pcg64;
pub use python::python_shuffle;
pub use seed_sequence::SeedSequence;
pub use shuffled_range::ShuffledRange;
pub use torch::torch_permutation;
