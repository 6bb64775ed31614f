//! A sandbox: one program whose functions the host calls, and which calls functions of the host.

use super::deadline::Deadline;
use super::elf::Program;
use super::error::{CallError, LoadError};
use super::functions::{Function, HostFunction};
use super::guest::Cell;
use super::memory::Memory;
use super::ring0::{BUFFER_SIZE, GUEST, GUEST_SLOT, MEMORY_MAX, MEMORY_MIN, Map, STACK_SIZE};
use super::values::{Arguments, FromGuest};
use crate::arch::cpuid;
use crate::arch::irqchip::Irqchip;
use crate::arch::layout::PAGE_SIZE;
use crate::kvm::system::System;
use crate::kvm::vm::Vm;
use crate::memory::map::{GuestRange, MemoryMap};
use crate::memory::ram::GuestRam;
use std::sync::Arc;
use std::time::Duration;

/// Memory of a guest unless told otherwise.
const MEMORY: u64 = 16 << 20;
/// How long a call may take unless told otherwise.
const LIMIT: Duration = Duration::from_secs(1);

/// What a sandbox is made of, besides its program.
pub struct SandboxBuilder {
    functions: Result<Vec<Function>, LoadError>,
    memory: u64,
    limit: Option<Duration>,
}

/// A guest whose functions are called. The thread that calls runs it; it can go from one thread to another between calls.
///
/// ```no_run
/// use hostel::embed::sandbox::Sandbox;
///
/// let program = std::fs::read("guest")?;
/// let mut sandbox = Sandbox::builder().function("add", |a: i64, b: i64| a + b).load(&program)?;
/// let sum: u64 = sandbox.call("sum", (1u64, 2u64))?;
/// sandbox.reset()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sandbox {
    cell: Cell,
    functions: Vec<Function>,
}

impl SandboxBuilder {
    /// Gives the guest a function of the host: a closure with up to six parameters (`bool`, `i32`, `u32`, `i64`, `u64`, `Vec<u8>`,
    /// `String`), before which it may have one of type `&mut Guest` to call the guest back. It gives one of these, `()`, or a
    /// `Result` of it. Of two with one name, the last one counts.
    #[must_use]
    pub fn function<Types>(mut self, name: &str, function: impl HostFunction<Types>) -> SandboxBuilder {
        self.functions = self.functions.and_then(|mut functions| {
            functions.retain(|other| other.name != name);
            functions.push(function.named(name)?);
            Ok(functions)
        });
        self
    }

    /// Gives the guest this many bytes of memory, whole pages, instead of 16 MiB: its program, stack and buffer are in there.
    #[must_use]
    pub fn memory(self, bytes: u64) -> SandboxBuilder {
        SandboxBuilder { memory: bytes, ..self }
    }

    /// Ends calls that take longer than this, instead of a second; `None` lets them run.
    #[must_use]
    pub fn deadline(self, limit: Option<Duration>) -> SandboxBuilder {
        SandboxBuilder { limit, ..self }
    }

    /// Loads a program, an ELF file. None of its code runs before it is called.
    ///
    /// # Errors
    /// It is no program for a sandbox, wants functions that the host does not have or that have other types; or the host refuses.
    pub fn load(self, program: &[u8]) -> Result<Sandbox, LoadError> {
        let functions = self.functions?;
        let (memory, least) = (self.memory, MEMORY_MIN);
        if !(least..=MEMORY_MAX).contains(&memory) || !memory.is_multiple_of(PAGE_SIZE) {
            return Err(LoadError::Memory { wanted: memory, least, most: MEMORY_MAX });
        }
        let reserved = STACK_SIZE + BUFFER_SIZE + 3 * PAGE_SIZE;
        let room = GuestRange { start: GUEST, size: memory - reserved };
        let program = Program::read(program, room).map_err(LoadError::Program)?;
        let imports = bind(&program, &functions)?;
        let file_end = program.parts.iter().map(|(part, _)| part.range.end()).max().unwrap_or(GUEST);
        let map = Map::new(memory, file_end).expect("the room leaves a page free");
        let ram_map = MemoryMap::divided(GUEST + memory, GUEST).expect("the memory is whole pages below the hole");
        let ram = Arc::new(GuestRam::new(&ram_map)?);
        let system = System::open()?;
        let vm = Vm::with_log(&system, Irqchip::None, ram.clone(), Some(GUEST_SLOT))?;
        let mut vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid(&cpuid::for_vcpu(&system.supported_cpuid()?, 0, 1, Irqchip::None))?;
        if !vcpu.exchange_registers() {
            return Err(LoadError::NoExchange);
        }
        let cell = Cell {
            vcpu,
            vm,
            memory: Memory::load(ram, map, &program)?,
            exports: program.exports,
            imports,
            deadline: Deadline::new(self.limit)?,
            depth: 0,
            usable: true,
            entry: map.entry_state(),
        };
        let mut sandbox = Sandbox { cell, functions };
        sandbox.cell.reset().map_err(|error| match error {
            CallError::Kvm(error) => LoadError::Kvm(error),
            error => LoadError::Program(error.to_string()),
        })?;
        Ok(sandbox)
    }
}

impl Sandbox {
    /// What a sandbox is made of: no functions of the host, 16 MiB, calls of a second at most.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder { functions: Ok(Vec::new()), memory: MEMORY, limit: Some(LIMIT) }
    }

    /// Calls a function that the program exports, with a tuple of arguments (`bool`, `i32`, `u32`, `i64`, `u64`, `&[u8]`, `Vec<u8>`,
    /// `&str`, `String`), for a result of one of these types that is not borrowed, or `()`. The guest's memory stays as the call
    /// left it.
    ///
    /// # Errors
    /// There is no such function, it has other types, or it did not return: an exception, the deadline, an error of the host's
    /// functions. [`Sandbox::needs_reset`] tells whether it was cut short.
    pub fn call<A: Arguments, R: FromGuest>(&mut self, name: &str, arguments: A) -> Result<R, CallError> {
        self.cell.call(&self.functions, name, &arguments)
    }

    /// Makes the guest what it was when it was loaded: writes the pages anew that were written since, and all registers. Says how many
    /// pages that were.
    ///
    /// # Errors
    /// The host's KVM refuses.
    pub fn reset(&mut self) -> Result<u64, CallError> {
        self.cell.reset()
    }

    /// Whether a call was cut short: the guest's memory is as it was just then, and it must be reset before the next call.
    pub fn needs_reset(&self) -> bool {
        !self.cell.usable || self.cell.depth > 0
    }

    /// The functions that the program exports, with their types as the program writes them, in the order of their names.
    pub fn exports(&self) -> Vec<(String, String)> {
        let mut exports: Vec<_> =
            self.cell.exports.iter().map(|(name, export)| (name.clone(), export.signature.to_string())).collect();
        exports.sort();
        exports
    }
}

/// Finds the functions that a program calls: records' addresses, ascending, and the functions' numbers.
fn bind(program: &Program, functions: &[Function]) -> Result<Vec<(u64, usize)>, LoadError> {
    let find = |import: &super::elf::Import| {
        let number = functions.iter().position(|function| function.name == import.name);
        let (name, signature) = (import.name.clone(), import.signature.to_string());
        let Some(number) = number else { return Err(LoadError::NoHostFunction { name, signature }) };
        if functions[number].signature != import.signature {
            let host = functions[number].signature.to_string();
            return Err(LoadError::HostFunctionTypes { name, host, program: signature });
        }
        Ok((import.record, number))
    };
    program.imports.iter().map(find).collect()
}
