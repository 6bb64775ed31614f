//! Numbers and arguments of hostile system calls, made of bytes: as each call wants them, as none does, and at the edges; and what lies in
//! the program's memory for pointers to lead to.
//!
//! Source: Linux `arch/x86/entry/syscalls/syscall_64.tbl`.

use super::fixture::{DATA, DATA_SIZE, FORBIDDEN, HEAP, MAPPED_FILE, READ_ONLY, SHARED};
use super::space::USER_START;
use super::stub;
use super::syscall::call::Arguments;
use super::syscall::open::HERE;
use super::syscall::table::{Form, ROWS};
use super::tables::USER_END;
use super::task::Task;
use crate::arch::layout::PAGE_SIZE;

/// Sizes that are had, as bits of them.
const SIZE_MAX: u64 = 0x1_ffff;

const PATHS: [&[u8]; 16] = [
    b"/file",
    b"file",
    b"/directory",
    b"directory/../file",
    b"/up/../../secret",
    b"/link",
    b"/a",
    b"a/b",
    b"/program",
    b"/script",
    b"/proc/self/exe",
    b"",
    b".",
    b"/file/x",
    b"/directory/a/",
    b"/../../../../etc/passwd",
];
/// Where in [`DATA`] the paths stand, 64 bytes each, and what comes behind them.
const VECTORS: u64 = 0x400;
const TIMES: u64 = 0x480;
const POLLS: u64 = 0x500;
const TEXTS: u64 = 0x580;
const NUMBERS: u64 = 0x600;
const ADDRESS: u64 = 0x640;
const ACTION: u64 = 0x680;
const MESSAGE: u64 = 0x700;

/// Combinations of flags that some call knows.
const FLAGS: [u64; 31] = [
    0, 1, 2, 3, 4, 5, 6, 8, 9, 0x11, 0x22, 0x32, 0x21, 0x12, 0x10_0022, 0x80, 0x81, 0x89, 0x100, 0x4100, 0x1_0f00,
    0x3d_0f00, 0x120_0011, 0x1000, 0x200, 0x400, 0x800, 0x1002, 0x1003, 0xfff, 0x40,
];
const OPEN_FLAGS: [i32; 8] = [
    libc::O_RDONLY,
    libc::O_RDWR,
    libc::O_RDWR | libc::O_CREAT,
    libc::O_WRONLY | libc::O_TRUNC,
    libc::O_PATH,
    libc::O_DIRECTORY,
    libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC,
    libc::O_RDWR | libc::O_TMPFILE,
];
const REQUESTS: [libc::Ioctl; 8] = [
    libc::TCGETS,
    libc::TCSETS,
    libc::TIOCGWINSZ,
    libc::TIOCSWINSZ,
    libc::TIOCGPGRP,
    libc::FIONREAD,
    libc::FIOCLEX,
    libc::FIONCLEX,
];

/// Puts into the program's memory what arguments point to.
pub(super) fn prepare(task: &mut Task) {
    let put = |offset: u64, bytes: &[u8]| task.write(DATA + offset, bytes).expect("it is mapped");
    let words = |offset: u64, words: &[u64]| {
        put(offset, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>().as_slice())
    };
    let end = DATA + DATA_SIZE;
    words(VECTORS, &[DATA + 0x1000, 16, end - 8, 64, DATA + 0xffc, 8, READ_ONLY, 32, 0, u64::MAX]);
    words(TIMES, &[0, 0, 0, 1000, u64::MAX, 0, 0, 1 << 40, i64::MAX as u64, 999_999_999]);
    words(POLLS, &[1 << 32, 4 << 32 | 4, 1 << 32 | 99, u32::MAX.into()]);
    words(TEXTS, &[DATA, DATA + 64, READ_ONLY, 0, DATA, FORBIDDEN, 0]);
    words(NUMBERS, &[0, 1, i64::MAX as u64, u64::MAX, 4096, 0x7fff_ffff]);
    // A handler on the alternate stack, if there is one, that is told all and may be interrupted.
    words(ACTION, &[DATA, 0x4c00_0004, DATA + 64, 0]);
    put(ADDRESS, b"\x01\0/socket\0\0\0\0\0\0");
    words(MESSAGE, &[DATA + ADDRESS, 9, DATA + VECTORS, 3, DATA + NUMBERS, 0, 0, 0]);
    words(MESSAGE + 64, &[0, 0, DATA + VECTORS, 1, DATA + NUMBERS, 32, 0, 0]);
    for (index, path) in (0..).zip(PATHS) {
        put(index * 64, path);
    }
    task.regs.rsp = end;
}

/// The call that bytes stand for: its number, from the table or beside it, and its arguments.
pub(super) fn decode(bytes: &[u8]) -> (u64, Arguments) {
    let row = ROWS.get(usize::from(bytes[1]) % (ROWS.len() + 1));
    let number = row.map_or(u64::from(bytes[2]) * 3, |row| row.number);
    let mut arguments = [0; 6];
    for (index, (argument, from)) in arguments.iter_mut().zip(bytes[2..].as_chunks::<2>().0).enumerate() {
        let form = row.and_then(|row| row.forms.get(index)).copied().unwrap_or(Form::Hex);
        *argument = value(form, *from);
    }
    (number, arguments)
}

/// An argument: mostly one of its form, else an address, or a number at an edge.
pub(super) fn value(form: Form, [kind, value]: [u8; 2]) -> u64 {
    let small = u64::from(value);
    let of = |list: &[u64]| list[usize::from(value) % list.len()];
    match kind {
        0xf0.. => edge(value),
        0xe0.. => pointer(value, u64::from(kind & 15)),
        _ => match form {
            Form::Fd => small % 6,
            Form::At if value % 2 == 0 => HERE,
            Form::At => small % 6,
            Form::Path => DATA + small % 16 * 64,
            Form::Time => DATA + TIMES + small % 5 * 16,
            Form::Pointer | Form::In | Form::Out | Form::OutText | Form::Address => {
                pointer(value, u64::from(kind & 15))
            }
            Form::OpenFlags => OPEN_FLAGS[usize::from(value) % OPEN_FLAGS.len()] as u64,
            Form::Ioctl => REQUESTS[usize::from(value) % REQUESTS.len()],
            Form::Size | Form::Number if kind & 1 != 0 => edge(value) & SIZE_MAX,
            Form::Mode => small | 0o400,
            Form::Prot | Form::Whence | Form::Signal | Form::Clock | Form::AccessMode | Form::Fcntl => small % 70,
            Form::Hex | Form::MapFlags | Form::AtFlags | Form::SocketKind | Form::MessageFlags => of(&FLAGS),
            // Most are of the one that needs no leave.
            Form::Family => {
                [libc::AF_UNIX, libc::AF_UNIX, libc::AF_INET, libc::AF_NETLINK][usize::from(value % 4)] as u64
            }
            Form::Size | Form::Number => small,
        },
    }
}

/// A number close to one at which something changes.
fn edge(value: u8) -> u64 {
    let edge = match value & 63 {
        0 => 0,
        1 => USER_END,
        2 => USER_END - PAGE_SIZE,
        3 => HERE,
        bit => 1 << bit,
    };
    edge.wrapping_add(u64::from(value >> 6)).wrapping_sub(1)
}

/// An address in one of the mappings, at its end, or where there is none.
fn pointer(which: u8, offset: u64) -> u64 {
    let inner =
        [0, 1, 4, 8, ADDRESS, MESSAGE, VECTORS, TIMES, TIMES + 16, POLLS, TEXTS, NUMBERS, 0xff8, 0xffc, 0xfff, ACTION];
    let offset = inner[offset as usize % inner.len()];
    let bases = [
        DATA,
        DATA,
        DATA + 0x1000,
        DATA + 0x2000,
        DATA + 0x3000,
        READ_ONLY,
        FORBIDDEN,
        MAPPED_FILE,
        MAPPED_FILE + PAGE_SIZE,
        HEAP,
        SHARED,
        0,
        USER_START,
        USER_END - PAGE_SIZE,
        stub::BASE,
        u64::MAX - PAGE_SIZE + 1,
        1 << 63,
    ];
    match usize::from(which) % (bases.len() * 2) {
        // Whole pages, which the calls about memory want.
        index if index >= bases.len() => bases[index - bases.len()],
        index => bases[index].wrapping_add(offset),
    }
}
