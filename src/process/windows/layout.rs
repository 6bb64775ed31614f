//! Where the parts of a foreign program's process lie.
//!
//! All below 2 GiB that is not the program's is at fixed addresses, as the libraries of old Windows were; the program lies where it was
//! linked, at 0x140000000 mostly. Addresses are not drawn at random.
//! Source: Microsoft "Virtual Address Space (Memory Management)" (the first 64 KiB are nobody's).

use super::pe::PAGE;
use super::streams::STREAMS_MAX;

/// Where the guest's part of the C runtime is linked; `build.rs` has the same number.
pub const RUNTIME: u64 = 0x7000_0000;
/// One stub for each function that is answered by a trap.
pub const STUBS: u64 = 0x7010_0000;
/// Variables of the libraries.
pub const VARIABLES: u64 = 0x7020_0000;
/// Arguments, environment and the like: as many pages as they take.
pub const TEXTS: u64 = 0x7030_0000;
/// The end of the stack, which grows downwards.
pub const STACK_END: u64 = 0x7000_0000;
/// Largest stack that is given.
pub const STACK_MAX: u64 = 64 << 20;
/// The thread environment block, to which GS points.
pub const THREAD_BLOCK: u64 = 0x7ffd_e000;
/// The process environment block.
pub const PROCESS_BLOCK: u64 = 0x7ffd_d000;
/// The first address above all these.
const FIXED_END: u64 = 0x8000_0000;
/// Where a program goes that cannot lie where it was linked.
pub const PROGRAM: u64 = 0x1_4000_0000;
/// Where the heap begins.
pub const HEAP: u64 = 0x10_0000_0000;
/// Where it ends at last.
pub const HEAP_END: u64 = HEAP + (64 << 30);
/// Where memory lies that the program asks the system for.
pub const REGIONS: u64 = 0x20_0000_0000;
/// Where that ends.
pub const REGIONS_END: u64 = 0x30_0000_0000;

/// Variables of the libraries, by their offset from [`VARIABLES`].
pub mod variable {
    /// `_acmdln`: address of the command line.
    pub const COMMAND_LINE: u64 = 0x00;
    /// `__initenv`: address of the environment.
    pub const ENVIRONMENT: u64 = 0x08;
    /// `_commode`.
    pub const COMMIT_MODE: u64 = 0x10;
    /// `_fmode`.
    pub const FILE_MODE: u64 = 0x14;
    /// `errno`.
    pub const ERROR: u64 = 0x18;
    /// What `strerror` returns.
    pub const ERROR_TEXT: u64 = 0x80;
    /// `struct lconv`.
    pub const LOCALE: u64 = 0x100;
    /// Texts that it points to.
    pub const LOCALE_TEXTS: u64 = 0x1c0;
    /// What the runtime's start is given.
    pub const PARAMETERS: u64 = 0x1d0;
    /// The array of thread-storage blocks, of which a program has one.
    pub const THREAD_STORAGE: u64 = 0x1f8;
    /// The array of `FILE`.
    pub const STREAMS: u64 = 0x200;
}

/// Bytes of a `FILE` of msvcrt.
pub const STREAM_SIZE: u64 = 48;
/// Bytes of all variables, whole pages.
pub const VARIABLES_SIZE: u64 = PAGE;

const _: () = assert!(variable::STREAMS + STREAM_SIZE * STREAMS_MAX as u64 <= VARIABLES_SIZE);

/// Whether a program of `size` bytes may lie at `base`.
pub fn is_free(base: u64, size: u64) -> bool {
    let end = base.saturating_add(size);
    let low = base >= 0x1_0000 && end <= STACK_END - STACK_MAX;
    let middle = base >= FIXED_END && end <= HEAP;
    low || middle
}
