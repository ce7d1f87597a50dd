//! What the C library's allocator does with memory that is given back.

/// Bytes of the largest buffers that are taken from what the process has; of larger ones a step has few.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGEST: libc::c_int = 64 << 20;

/// Bytes that stay with the process when they are given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 256 << 20;

/// Lets large buffers be used again instead of going back to the system: a training step makes and drops
/// the same ones over and over, and the system clears every page of a new one, a tenth of the step.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn keep_large_buffers() {
    for (setting, bytes) in [(libc::M_MMAP_THRESHOLD, LARGEST), (libc::M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: the allocator may be set up at any time, and other threads are not there yet. Where
        // it refuses, it stays as it was.
        let _ = unsafe { libc::mallopt(setting, bytes) };
    }
}

/// Other allocators have settings of their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_large_buffers() {}
