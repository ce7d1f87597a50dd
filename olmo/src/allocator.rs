//! What the C library's allocator does with memory that is given back.

/// Bytes up to which memory that is given back stays with the process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 1 << 30;

/// Lets large buffers be used again instead of going back to the system: a training step makes and drops
/// the same ones over and over, and the system clears every page of a new one, a tenth of the step.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn keep_large_buffers() {
    for setting in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: the allocator may be set up at any time, and other threads are not there yet. Where
        // it refuses, it stays as it was.
        let _ = unsafe { libc::mallopt(setting, KEPT) };
    }
}

/// Other allocators have settings of their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_large_buffers() {}
