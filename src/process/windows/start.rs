//! How a program begins: what lies in its memory before the first instruction, and where that is.
//!
//! The program itself, bound to its imports; the runtime and the stubs; arguments and environment; the blocks of the process and of its
//! thread (`command_line.rs`, `blocks.rs`); and a stack.
//! Sources: PE Format "The .tls Section"; Microsoft "x64 calling convention" (the stack at a function's entry).

use super::blocks::{Page, put_blocks, put_page, put_variables};
use super::command_line::{TEXTS_MAX, put_texts};
use super::functions;
use super::image::{Image, Import, Symbol};
use super::layout::{self, variable};
use super::pe::{Access, PAGE, Pe, PeError};
use super::process::Process;
use super::regions::Region;
use super::runtime;
use super::stubs::stubs;
use super::user::Memory;
use std::fmt::Write;
use std::ops::Range;

/// Least stack.
const STACK_MIN: u64 = 64 << 10;
/// Most missing imports that are named; the others are counted.
const NAMED_MAX: usize = 20;

/// Why a program does not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error("{0}")]
    Program(#[from] PeError),
    #[error("it needs functions that Hostel does not have: {0}; docs/windows-programs.md lists those that it has")]
    Missing(String),
    #[error("its arguments and environment have more than {TEXTS_MAX} bytes")]
    Texts,
    #[error("there is not enough memory for it")]
    Memory,
}

/// What a program is started with.
#[derive(Clone, Debug, Default)]
pub struct Invocation {
    /// The program's path, as the user wrote it.
    pub path: Vec<u8>,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Names and values.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Registers at the first instruction; all others are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The instruction.
    pub rip: u64,
    /// The stack.
    pub rsp: u64,
    /// The first argument.
    pub rcx: u64,
    /// Where GS points.
    pub gs_base: u64,
    /// Where the stack lies.
    pub stack: Range<u64>,
}

/// Puts the program in `file` into memory.
///
/// # Errors
/// It is none that runs here, imports what is not there, or does not fit.
pub fn start(
    file: &[u8],
    how: Invocation,
    memory: &mut dyn Memory,
    process: &mut Process,
) -> Result<Entry, StartError> {
    let pe = Pe::parse(file)?;
    let base = if layout::is_free(pe.base, pe.size) { pe.base } else { layout::PROGRAM };
    let mut image = Image::lay_out(&pe, base)?;
    bind(&mut image, &pe)?;
    let storage = image.thread_storage(&pe)?;
    put_image(&pe, &image, memory, process)?;
    process.base = base;

    put_library(layout::RUNTIME, runtime::CODE, runtime::writable(), memory)?;
    let stubs = stubs();
    put_library(layout::STUBS, &stubs, (stubs.len() as u64).next_multiple_of(PAGE), memory)?;
    process.texts = put_texts(how, memory, process)?;

    let stack = pe.stack.clamp(STACK_MIN, layout::STACK_MAX).next_multiple_of(PAGE);
    let bottom = layout::STACK_END - stack;
    make(bottom, stack, memory)?;
    process.regions.add(bottom, Region { size: stack, base: bottom, access: Access::DATA, image: false });

    let mut variables = Page::new(layout::VARIABLES_SIZE);
    put_variables(&mut variables, &process.texts);
    let start = runtime::export("start").expect("the runtime has a start");
    let terminate = functions::address("ntdll", "NtTerminateProcess").expect("the table has it");
    let callbacks = storage.as_ref().map_or(0, |storage| storage.callbacks);
    for (at, value) in
        (variable::PARAMETERS..).step_by(8).zip([base + pe.entry, layout::PROCESS_BLOCK, base, callbacks, terminate])
    {
        variables.u64(at, value);
    }
    if let Some(storage) = storage {
        let size = storage.template.len() as u64 + storage.zeros;
        let block = process.heap.allocate(size, memory).ok_or(StartError::Memory)?;
        put(block, &storage.template, memory)?;
        variables.u64(variable::THREAD_STORAGE, block);
        // The index is a variable of the image, which may lie in a part that is not written to.
        let _ = memory.write(storage.index, &0u32.to_le_bytes());
    }
    put_page(layout::VARIABLES, &variables, memory)?;
    put_blocks(base, bottom, memory)?;
    // Above the return address, which is 0, lie the 32 bytes that the function may use.
    let rsp = layout::STACK_END - 40;
    Ok(Entry {
        rip: layout::RUNTIME + start,
        rsp,
        rcx: layout::VARIABLES + variable::PARAMETERS,
        gs_base: layout::THREAD_BLOCK,
        stack: bottom..layout::STACK_END,
    })
}

/// Binds all imports, or names those that are not there.
fn bind(image: &mut Image, pe: &Pe) -> Result<(), StartError> {
    let mut missing = Vec::new();
    for import in image.imports(pe)? {
        match resolve(&import) {
            Some(address) => image.bind(&import, address),
            None => missing.push(match &import.symbol {
                Symbol::Name(name) => format!("{name} of {}", import.library),
                Symbol::Ordinal(number) => format!("number {number} of {}", import.library),
            }),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let more = missing.len().saturating_sub(NAMED_MAX);
    missing.truncate(NAMED_MAX);
    let mut list = missing.join(", ");
    if more > 0 {
        let _ = write!(list, " and {more} more");
    }
    Err(StartError::Missing(list))
}

fn resolve(import: &Import) -> Option<u64> {
    let library = functions::LIBRARIES[functions::library(&import.library)?];
    match &import.symbol {
        Symbol::Name(name) => functions::address(library, name),
        Symbol::Ordinal(_) => None,
    }
}

/// Makes pages of data.
pub(super) fn make(start: u64, size: u64, memory: &mut dyn Memory) -> Result<(), StartError> {
    memory.map(start, size, Access::DATA).then_some(()).ok_or(StartError::Memory)
}

pub(super) fn put(at: u64, bytes: &[u8], memory: &mut dyn Memory) -> Result<(), StartError> {
    memory.write(at, bytes).map_err(|_| StartError::Memory)
}

fn put_image(pe: &Pe, image: &Image, memory: &mut dyn Memory, process: &mut Process) -> Result<(), StartError> {
    make(image.base, pe.size, memory)?;
    put(image.base, &image.bytes, memory)?;
    // What lies between the sections is read like the headers, and then taken from that by each section.
    let whole = Region { size: pe.size, base: image.base, access: Access::CONSTANT, image: true };
    process.regions.add(image.base, whole);
    memory.protect(image.base, pe.size, Access::CONSTANT);
    for part in &pe.sections {
        process.regions.protect(image.base + part.start, part.size, part.access);
        memory.protect(image.base + part.start, part.size, part.access);
    }
    Ok(())
}

/// Puts code into memory, of which what lies before `writable` is not written to any more.
fn put_library(at: u64, code: &[u8], writable: u64, memory: &mut dyn Memory) -> Result<(), StartError> {
    make(at, (code.len() as u64).next_multiple_of(PAGE), memory)?;
    put(at, code, memory)?;
    memory.protect(at, writable, Access::CODE);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeMemory;
    use super::super::fixture::Program;
    use super::*;
    use crate::process::fake_files::FakeFiles;

    fn started(file: &[u8], how: Invocation) -> (Result<Entry, StartError>, FakeMemory, Process) {
        let (mut memory, mut process) = (FakeMemory::default(), Process::new(&FakeFiles::default()));
        let entry = start(file, how, &mut memory, &mut process);
        (entry, memory, process)
    }

    #[test]
    fn a_missing_function_is_named() {
        let (entry, ..) = started(&Program::default().build(), Invocation::default());
        let error = entry.unwrap_err().to_string();
        assert!(
            error.starts_with("it needs functions that Hostel does not have: number 7 of KERNEL32.dll;"),
            "{error}"
        );
    }

    #[test]
    fn a_program_lies_where_it_was_linked_with_its_blocks_and_texts() {
        let how = Invocation {
            path: b"/bin/a.exe".to_vec(),
            arguments: vec![b"plain".to_vec(), b"two words".to_vec()],
            environment: vec![(b"A".to_vec(), b"1".to_vec()), (b"B".to_vec(), b"2".to_vec())],
        };
        let (entry, memory, process) = started(&Program::complete().build(), how);
        let entry = entry.unwrap();
        let memory: &dyn Memory = &memory;
        assert_eq!((process.base, entry.gs_base, entry.rsp % 16), (0x1_4000_0000, layout::THREAD_BLOCK, 8));
        let texts = process.texts;
        assert_eq!(memory.text(texts.command_line, 100).unwrap(), br#"C:\bin\a.exe plain "two words""#);
        let second = memory.u64(texts.arguments + 16).unwrap();
        assert_eq!((texts.count, memory.text(second, 100).unwrap()), (3, b"two words".to_vec()));
        let variable = memory.u64(texts.environment + 8).unwrap();
        assert_eq!(memory.text(variable, 100).unwrap(), b"B=2");
        assert_eq!(memory.u64(entry.rcx), Ok(0x1_4000_1000), "the entry");
        assert_eq!(memory.u64(entry.gs_base + 0x30), Ok(layout::THREAD_BLOCK));
        let storage = memory.u64(memory.u64(entry.gs_base + 0x58).unwrap()).unwrap();
        assert_eq!(memory.text(storage, 100).unwrap(), b"template");
        assert_eq!(
            memory.u64(process.base + Program::SLOTS),
            Ok(functions::address("kernel32", "ExitProcess").unwrap())
        );
    }

    #[test]
    fn code_is_not_written_to() {
        let (_, mut memory, process) = started(&Program::complete().build(), Invocation::default());
        for (at, may) in [
            (process.base, false),
            (process.base + 0x1000, false),
            (process.base + 0x2000, true),
            (layout::STUBS, false),
            (layout::RUNTIME, false),
            (layout::RUNTIME + runtime::writable(), true),
            (layout::STACK_END - 8, true),
            (layout::STACK_END - 0x20_0000 - 8, false),
        ] {
            assert_eq!(memory.write(at, &[0]).is_ok(), may, "{at:#x}");
        }
    }

    #[test]
    fn a_program_that_must_lie_elsewhere_does() {
        let file = Program { base: layout::RUNTIME, ..Program::complete() }.build();
        let (entry, _, process) = started(&file, Invocation::default());
        assert_eq!((entry.map_err(|error| error.to_string()).is_ok(), process.base), (true, layout::PROGRAM));
    }

    #[test]
    fn too_many_arguments_are_refused() {
        let how = Invocation { arguments: vec![vec![b'a'; TEXTS_MAX]], ..Invocation::default() };
        assert!(matches!(started(&Program::complete().build(), how).0, Err(StartError::Texts)));
    }
}
