//! What a program finds of its process and its thread in memory, and the C runtime's variables: the fields that programs read.
//!
//! Leaves out all other fields, which are 0.
//! Sources: winternl.h (fields of the blocks); ISO C §7.11 (`struct lconv`).

use super::layout::{self, variable};
use super::pe::PAGE;
use super::process::Texts;
use super::start::{StartError, make, put};
use super::user::Memory;

/// Number of the process, as programs print it.
pub const PROCESS_ID: u64 = 4000;
/// Number of its thread.
pub const THREAD_ID: u64 = 4004;

/// A page to be, or some.
pub(super) struct Page(Vec<u8>);

impl Page {
    pub(super) fn new(size: u64) -> Page {
        Page(vec![0; size as usize])
    }

    fn bytes(&mut self, at: u64, bytes: &[u8]) {
        self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn u32(&mut self, at: u64, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, at: u64, value: u64) {
        self.bytes(at, &value.to_le_bytes());
    }
}

/// Makes pages of data and fills them.
pub(super) fn put_page(at: u64, page: &Page, memory: &mut dyn Memory) -> Result<(), StartError> {
    make(at, page.0.len() as u64, memory)?;
    put(at, &page.0, memory)
}

/// The variables of the C runtime.
pub(super) fn put_variables(page: &mut Page, texts: &Texts) {
    page.u64(variable::COMMAND_LINE, texts.command_line);
    page.u64(variable::ENVIRONMENT, texts.environment);
    // struct lconv: ten texts, eight numbers that are not known (CHAR_MAX), and eight wide texts.
    let texts = [b".\0\0\0".as_slice(), b".\0\0\0\0\0"].concat();
    page.bytes(variable::LOCALE_TEXTS, &texts);
    let at = |offset| layout::VARIABLES + variable::LOCALE_TEXTS + offset;
    for index in 0..10 {
        page.u64(variable::LOCALE + index * 8, at(if index == 0 { 0 } else { 2 }));
    }
    page.bytes(variable::LOCALE + 80, &[127; 8]);
    for index in 0..8 {
        page.u64(variable::LOCALE + 88 + index * 8, at(if index == 0 { 4 } else { 8 }));
    }
    // FILE: _flag (read, write) at 24, _file at 28.
    for (index, flags) in [(0u32, 1), (1, 2), (2, 2)] {
        let stream = variable::STREAMS + u64::from(index) * layout::STREAM_SIZE;
        page.u32(stream + 24, flags);
        page.u32(stream + 28, index);
    }
}

/// The blocks of the process and of the thread.
pub(super) fn put_blocks(base: u64, stack_bottom: u64, memory: &mut dyn Memory) -> Result<(), StartError> {
    let mut process = Page::new(PAGE);
    process.u64(0x10, base); // ImageBaseAddress
    process.u64(0x30, layout::HEAP); // ProcessHeap
    put_page(layout::PROCESS_BLOCK, &process, memory)?;
    let mut thread = Page::new(2 * PAGE);
    for (at, value) in [
        (0x08, layout::STACK_END),
        (0x10, stack_bottom),
        (0x30, layout::THREAD_BLOCK), // itself
        (0x40, PROCESS_ID),
        (0x48, THREAD_ID),
        (0x58, layout::VARIABLES + variable::THREAD_STORAGE),
        (0x60, layout::PROCESS_BLOCK),
    ] {
        thread.u64(at, value);
    }
    put_page(layout::THREAD_BLOCK, &thread, memory)
}
