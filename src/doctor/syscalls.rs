//! System calls made only to see whether the kernel has them. Neither of the two changes anything.
//!
//! Sources: io_uring_setup(2), landlock_create_ruleset(2).

use std::io;

/// LANDLOCK_CREATE_RULESET_VERSION: asks for the version and makes nothing.
const VERSION_QUERY: libc::c_ulong = 1;

/// Whether this process may use io_uring.
///
/// # Errors
/// `ENOSYS`: the kernel has none. `EPERM`: the sysctl or a seccomp filter forbids it.
pub fn io_uring() -> io::Result<()> {
    // SAFETY: the kernel reads the parameters from address 0, so a call that is allowed fails with EFAULT, or with EINVAL
    // for 0 entries, before anything is made.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, std::ptr::null_mut::<u8>()) };
    match answer(result) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EINVAL)) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The version of Landlock.
///
/// # Errors
/// `ENOSYS`: the kernel has none. `EOPNOTSUPP`: it was not switched on at boot.
pub fn landlock() -> io::Result<i64> {
    // SAFETY: with this flag the kernel takes no pointer; 0 and size 0 are what it demands.
    answer(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION_QUERY) })
}

fn answer(result: libc::c_long) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
