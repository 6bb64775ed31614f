//! What the models need of a kernel, under the same names on each.
//!
//! Pages, threads, words to wait at, a moment's sleep and a clock. The sample kernel has it, and so has Linux, where tests run the
//! same code and figures find something to be compared with.

#[cfg(linux)]
mod linux;
#[cfg(not(linux))]
mod sample;

#[cfg(linux)]
pub use linux::*;
#[cfg(not(linux))]
pub use sample::*;

/// Bytes of memory.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Of the process: pages that it has touched, and its page tables.
    pub process_bytes: u64,
    /// Of the kernel, for the threads of the process.
    pub kernel_bytes: u64,
}
