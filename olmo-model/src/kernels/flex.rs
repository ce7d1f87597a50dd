//! Kernels for burn's CPU backend.

use burn::backend::Flex;

use super::Kernels;

impl Kernels for Flex {}
