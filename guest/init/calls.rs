//! The system calls of the agent: sockets, processes and their pipes, files.
//!
//! Sources: Linux syscall_64.tbl for the numbers, vsock(7) for addresses, the manual page of each call.

use crate::syscalls::{self, Errno, call};

/// Flags of open(2), socket(2), accept4(2), pipe2(2) and signalfd(2).
const CLOSE_ON_EXEC: usize = 0o2_000_000;
const NONBLOCKING: usize = 0o4000;
/// Signals, as numbers and as bits of a set.
pub const KILL: u32 = 9;
const PIPE_AND_CHILD: u64 = 1 << (13 - 1) | 1 << (17 - 1);
const SET_BYTES: usize = 8;
/// All processes, for wait(2).
const ANY: usize = usize::MAX;
const WITHOUT_WAITING: usize = 1;
/// What poll(2) waits for and says.
pub const INPUT: i16 = 1;
pub const OUTPUT: i16 = 4;
/// The other side sends no more.
pub const GONE: i16 = 0x2000;
/// The address family of vsock.
const VSOCK: u16 = 40;
const ANY_ADDRESS: u32 = u32::MAX;
const HOST: u32 = 2;
/// The address of a guest is no smaller.
const FIRST_GUEST: u32 = 3;

/// `struct pollfd`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Poll {
    file: i32,
    events: i16,
    /// What there is.
    pub found: i16,
}

impl Poll {
    /// `file` for `events`; `None` is passed over.
    pub fn new(file: Option<usize>, events: i16) -> Self {
        Self { file: file.map_or(-1, |file| file as i32), events, found: 0 }
    }
}

/// `poll(2)`, for `timeout_ms`; without end if that is negative. Whether anything is there.
pub fn poll(files: &mut [Poll], timeout_ms: i32) -> bool {
    // SAFETY: the kernel reads and writes as many structures as there are.
    let result = unsafe { call(7, [files.as_mut_ptr() as usize, files.len(), timeout_ms as isize as usize, 0, 0]) };
    result.is_ok_and(|count| count > 0)
}

/// Whether this system has the address of a guest: a device for it, and a driver.
pub fn has_guest_address() -> bool {
    const GET_LOCAL: usize = 0x7b9;
    let Ok(device) = syscalls::open("/dev/vsock", syscalls::Access::Read) else { return false };
    let mut address = ANY_ADDRESS;
    // SAFETY: the kernel writes one u32.
    let result = unsafe { call(16, [device, GET_LOCAL, &raw mut address as usize, 0, 0]) };
    syscalls::close(device);
    result.is_ok() && (FIRST_GUEST..ANY_ADDRESS).contains(&address)
}

/// `struct sockaddr_vm`.
#[repr(C)]
struct Address {
    family: u16,
    zero: u16,
    port: u32,
    cid: u32,
    flags: u32,
}

fn stream() -> Result<usize, Errno> {
    const STREAM: usize = 1;
    // SAFETY: takes no pointer.
    unsafe { call(41, [VSOCK.into(), STREAM | CLOSE_ON_EXEC, 0, 0, 0]) }
}

/// A socket that listens at `port` of this guest.
pub fn listen(port: u32, backlog: usize) -> Result<usize, Errno> {
    let socket = stream()?;
    let address = Address { family: VSOCK, zero: 0, port, cid: ANY_ADDRESS, flags: 0 };
    // SAFETY: the kernel reads one structure; listen(2) takes no pointer.
    unsafe {
        call(49, [socket, &raw const address as usize, size_of::<Address>(), 0, 0])?;
        call(50, [socket, backlog, 0, 0, 0])?;
    }
    Ok(socket)
}

/// A connection to `port` of the host.
pub fn connect(port: u32) -> Result<usize, Errno> {
    let socket = stream()?;
    let address = Address { family: VSOCK, zero: 0, port, cid: HOST, flags: 0 };
    // SAFETY: the kernel reads one structure.
    let result = unsafe { call(42, [socket, &raw const address as usize, size_of::<Address>(), 0, 0]) };
    result.map(|_| socket).inspect_err(|_| syscalls::close(socket))
}

/// `accept4(2)`.
pub fn accept(socket: usize) -> Result<usize, Errno> {
    // SAFETY: null pointers ask for no address.
    unsafe { call(288, [socket, 0, 0, CLOSE_ON_EXEC, 0]) }
}

/// `fork(2)`: 0 in the child.
pub fn fork() -> Result<usize, Errno> {
    // SAFETY: this process has one thread and no library that would need to know.
    unsafe { call(57, [0; 5]) }
}

/// A pipe that no other program inherits: its reader and its writer.
pub fn pipe() -> Result<[usize; 2], Errno> {
    let mut files = [0u32; 2];
    // SAFETY: the kernel writes two 32-bit numbers.
    unsafe { call(293, [files.as_mut_ptr() as usize, CLOSE_ON_EXEC, 0, 0, 0]) }?;
    Ok(files.map(|file| file as usize))
}

/// Holds back that a pipe without reader, or a child's end, ends this process or a wait; a descriptor that tells of children, where
/// there is one.
pub fn watch_children() -> Result<usize, Errno> {
    const BLOCK: usize = 0;
    const BECOME_SUBREAPER: usize = 36;
    let signals = PIPE_AND_CHILD;
    // SAFETY: the kernel reads one set; prctl(2) takes no pointer here.
    unsafe {
        call(14, [BLOCK, &raw const signals as usize, 0, SET_BYTES, 0])?;
        // Processes whose parent ends come here, too.
        call(157, [BECOME_SUBREAPER, 1, 0, 0, 0])?;
        call(289, [ANY, &raw const signals as usize, SET_BYTES, CLOSE_ON_EXEC | NONBLOCKING, 0])
    }
}

/// `wait4(2)` for any process, without waiting.
pub fn reap() -> Option<usize> {
    // SAFETY: null pointers ask for no status.
    let result = unsafe { call(61, [ANY, 0, WITHOUT_WAITING, 0, 0]) };
    result.ok().filter(|process| *process != 0)
}

/// `wait4(2)`: the wait status of a child (wait(2)).
pub fn wait(child: usize) -> Result<u32, Errno> {
    let mut status = 0u32;
    // SAFETY: the kernel writes one u32.
    unsafe { call(61, [child, &raw mut status as usize, 0, 0, 0]) }?;
    Ok(status)
}

/// `pidfd_open(2)`: ready when the child has ended.
pub fn process_file(child: usize) -> Result<usize, Errno> {
    // SAFETY: takes no pointer.
    unsafe { call(434, [child, 0, 0, 0, 0]) }
}

/// `kill(2)` of the group of processes that `leader` leads.
pub fn kill_group(leader: usize, signal: u32) {
    // SAFETY: takes no pointer. One that has ended needs no signal.
    let _ = unsafe { call(62, [leader.wrapping_neg(), signal as usize, 0, 0, 0]) };
}

/// `setsid(2)`.
pub fn new_session() {
    // SAFETY: takes no pointer. A process that was just forked leads no group, so it can.
    let _ = unsafe { call(112, [0; 5]) };
}

/// `chdir(2)` to a directory whose name ends with a zero byte.
pub fn change_directory(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: the name ends with a zero byte, as `terminated` checks.
    unsafe { call(80, [terminated(name)?, 0, 0, 0, 0]) }.map(drop)
}

/// Becomes a program; both lists end with a null pointer. Comes back with an error only.
pub fn execute(path: &[u8], arguments: &[usize], environment: &[usize]) -> Errno {
    const SET_MASK: usize = 2;
    let none = 0u64;
    let ended = arguments.last() == Some(&0) && environment.last() == Some(&0);
    let Ok(path) = terminated(path).and_then(|path| if ended { Ok(path) } else { Err(INVALID) }) else {
        return INVALID;
    };
    // SAFETY: the path ends with a zero byte, both lists with a null pointer, and what they point to are strings of `frames.rs`.
    unsafe {
        let _ = call(14, [SET_MASK, &raw const none as usize, 0, SET_BYTES, 0]);
        call(59, [path, arguments.as_ptr() as usize, environment.as_ptr() as usize, 0, 0]).err().unwrap_or(INVALID)
    }
}

/// `dup2(2)`: `file` is `to`, too, and programs inherit it there.
pub fn place(file: usize, to: usize) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    unsafe { call(33, [file, to, 0, 0, 0]) }.map(drop)
}

/// `write(2)`: how many of the bytes were taken.
pub fn write(file: usize, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads at most the length of `bytes`.
    unsafe { call(1, [file, bytes.as_ptr() as usize, bytes.len(), 0, 0]) }
}

/// Opens a file to read it; one that would make us wait is not waited for.
pub fn open_to_read(name: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the name ends with a zero byte.
    unsafe { call(2, [terminated(name)?, CLOSE_ON_EXEC | NONBLOCKING, 0, 0, 0]) }
}

/// Makes a file that does not exist, for nobody else.
pub fn create(name: &[u8]) -> Result<usize, Errno> {
    const WRITE_NEW: usize = 1 | 0o100 | 0o200;
    // SAFETY: the name ends with a zero byte.
    unsafe { call(2, [terminated(name)?, WRITE_NEW | CLOSE_ON_EXEC, 0o600, 0, 0]) }
}

/// `fchmod(2)`.
pub fn set_mode(file: usize, mode: u32) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    unsafe { call(91, [file, mode as usize, 0, 0, 0]) }.map(drop)
}

/// `rename(2)`.
pub fn rename(from: &[u8], to: &[u8]) -> Result<(), Errno> {
    // SAFETY: both names end with a zero byte.
    unsafe { call(82, [terminated(from)?, terminated(to)?, 0, 0, 0]) }.map(drop)
}

/// `unlink(2)`; there is nothing to do about an error.
pub fn remove(name: &[u8]) {
    if let Ok(name) = terminated(name) {
        // SAFETY: the name ends with a zero byte.
        let _ = unsafe { call(87, [name, 0, 0, 0, 0]) };
    }
}

/// Type and permissions of an open file, and its size (fstat(2)).
pub fn mode_and_size(file: usize) -> Result<(u32, u64), Errno> {
    // `struct stat` is 144 bytes; st_mode is the lower half of the word at 24, st_size stands at 48.
    let mut stat = [0u64; 18];
    // SAFETY: the kernel writes one structure.
    unsafe { call(5, [file, stat.as_mut_ptr() as usize, 0, 0, 0]) }?;
    Ok((stat[3] as u32, stat[6]))
}

/// `getpid(2)`.
pub fn own_number() -> usize {
    // SAFETY: takes no pointer.
    unsafe { call(39, [0; 5]) }.unwrap_or(0)
}

/// `struct sysinfo`.
#[derive(Default)]
#[repr(C)]
pub struct SystemInfo {
    /// Seconds since the start.
    pub uptime: u64,
    /// Processes that ran or wanted to, on average over 1, 5 and 15 minutes, times 65,536.
    pub loads: [u64; 3],
    /// Memory, in units of `unit` bytes.
    pub total_ram: u64,
    /// See `total_ram`.
    pub free_ram: u64,
    _shared_buffers_swap: [u64; 4],
    /// Processes.
    pub processes: u16,
    _high: [u64; 2],
    /// Bytes of a unit of memory.
    pub unit: u32,
}

/// `sysinfo(2)`.
pub fn system_info() -> SystemInfo {
    let mut info = SystemInfo::default();
    // SAFETY: the kernel writes one structure. The call has no other error than a bad pointer.
    let _ = unsafe { call(99, [&raw mut info as usize, 0, 0, 0, 0]) };
    info
}

/// EINVAL: a name that does not end with a zero byte.
const INVALID: Errno = Errno(22);

/// Where a name starts, if it ends with a zero byte.
fn terminated(name: &[u8]) -> Result<usize, Errno> {
    if name.last() == Some(&0) { Ok(name.as_ptr() as usize) } else { Err(INVALID) }
}
