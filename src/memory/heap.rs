//! The process's own heap.

/// Keeps all threads on one heap, from the first of them on.
///
/// glibc gives each thread a heap of its own: address space to map and trim, fresh pages to touch. Hostel's threads allocate
/// next to nothing while a guest runs. Other C libraries have nothing to set. Source: mallopt(3), M_ARENA_MAX.
pub fn share_between_threads() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt sets a parameter of the allocator and takes no pointer; called before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
