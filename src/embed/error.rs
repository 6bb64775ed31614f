//! What can go wrong with a sandbox: when it is loaded, and when a function of its is called.

use crate::debug::delivery;
use crate::kvm::system::KvmError;
use crate::memory::ram::RamError;
use std::fmt;
use std::time::Duration;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is no program for a sandbox.
    #[error("the sandbox's program: {0}")]
    Program(String),
    /// More or less memory than a sandbox can have.
    #[error("{wanted} bytes of memory for a sandbox: it can have {least} to {most}, and whole pages of 4096")]
    Memory {
        /// Bytes asked for.
        wanted: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
    /// The program calls a function that the host does not have.
    #[error("the program wants the host's function {name}, {signature}: there is none")]
    NoHostFunction {
        /// Its name.
        name: String,
        /// Its types, as the program has them.
        signature: String,
    },
    /// The program has other types for a function of the host.
    #[error("the host's function {name} is {host}, and the program wants it as {program}")]
    HostFunctionTypes {
        /// Its name.
        name: String,
        /// Its types in the host.
        host: String,
        /// Its types in the program.
        program: String,
    },
    /// A function of the host takes more than there are registers for.
    #[error("the host's function {0} takes more than six registers: text and bytes take two each")]
    TooManyParameters(String),
    /// Registers do not come with exits.
    #[error("this host's KVM is older than Linux 4.17: it lacks KVM_CAP_SYNC_REGS")]
    NoExchange,
    /// The host's KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host gives no memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The host gives no thread, or no signal.
    #[error("set up the sandbox's deadline: {0}")]
    Deadline(#[from] std::io::Error),
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No such function.
    #[error("the program exports no function {0}")]
    NoFunction(String),
    /// Another number or other types of parameters, or another result.
    #[error("the program's function {name} is {program}, and is called as {call}")]
    Types {
        /// Its name.
        name: String,
        /// Its types in the program.
        program: String,
        /// Those of the call.
        call: String,
    },
    /// More is passed than the buffer has room for.
    #[error("{size} bytes are passed to the guest, and the buffer has room for {room}")]
    TooLarge {
        /// Bytes.
        size: u64,
        /// Bytes of room left.
        room: u64,
    },
    /// The guest and the host called each other too often before one returned.
    #[error("calls of guest and host are nested deeper than {0}")]
    TooDeep(u32),
    /// An earlier call ended in the middle of the guest's work.
    #[error("an earlier call was cut short: the sandbox must be reset")]
    NeedsReset,
    /// The guest took longer than it may.
    #[error("the guest ran longer than {0:?}")]
    Deadline(Duration),
    /// The guest raised an exception.
    #[error("the guest raised {0}")]
    Fault(Fault),
    /// The guest passed an address and a length that are not its memory, or more than is taken.
    #[error("the guest passed {size} bytes at {address:#x}, which are not its memory")]
    Pointer {
        /// The address.
        address: u64,
        /// The length.
        size: u64,
    },
    /// The guest passed as text what is none.
    #[error("the guest passed as text what is not UTF-8")]
    Text,
    /// The guest called what is no function of the host.
    #[error("the guest called {record:#x} of the host, at RIP {rip:#x}, which is no function")]
    NoHostFunction {
        /// What it had in RAX.
        record: u64,
        /// Where it was.
        rip: u64,
    },
    /// The guest did something that has no meaning here: another port, a read, an address without memory.
    #[error("the guest was stopped at RIP {rip:#x}: {what}")]
    Stopped {
        /// What it did.
        what: String,
        /// Where it was.
        rip: u64,
    },
    /// A function of the host failed.
    #[error("the host's function {name}: {message}")]
    Host {
        /// Its name.
        name: String,
        /// Why it failed, as it said.
        message: String,
    },
    /// The host's KVM refuses to run the guest.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// An exception of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its vector: 0 is #DE, 6 #UD, 13 #GP, 14 #PF.
    pub vector: u8,
    /// Address of the instruction that raised it.
    pub rip: u64,
    /// The address that could not be accessed, for #PF.
    pub address: Option<u64>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} at RIP {:#x}", delivery::name(self.vector), self.rip)?;
        self.address.map_or(Ok(()), |address| write!(f, ", address {address:#x}"))
    }
}
