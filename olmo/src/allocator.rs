//! What the C library's allocator does with memory that is given back.

/// Bytes of the largest buffers that are taken from what the process has, and those that older versions of
/// the library allow; of larger ones a step has few.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGEST: [libc::c_int; 2] = [256 << 20, 32 << 20];

/// Bytes that stay with the process when they are given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 256 << 20;

/// Lets large buffers be used again instead of going back to the system: a training step makes and drops
/// the same ones over and over, and the system clears every page of a new one, a tenth of the step.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn keep_large_buffers() {
    // SAFETY: the allocator may be set up at any time, and other threads are not there yet. Where it refuses,
    // it stays as it was.
    let set = |setting, bytes| unsafe { libc::mallopt(setting, bytes) } != 0;
    // With the second setting alone the first would stay at 128 KiB, instead of growing with what is given back.
    if LARGEST.iter().any(|bytes| set(libc::M_MMAP_THRESHOLD, *bytes)) {
        set(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Lets all threads take memory from one place. Otherwise each worker that ran a prompt keeps as much as its
/// activations took, where the next prompt may go through another worker. Only what is called before a
/// second thread asks for memory has this effect.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn share_buffers() {
    // SAFETY: the allocator may be set up at any time; threads that have memory of their own keep it.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other allocators have settings of their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_large_buffers() {}

/// Other allocators have settings of their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn share_buffers() {}
