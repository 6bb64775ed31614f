//! Trying an instruction that may fault, and living on.
//!
//! `attempt!` runs instructions with a way out: when one of them raises #DE, #UD, #GP or #PF, the program goes on after the
//! last one and learns what happened. Kernels read user memory and unknown MSRs in this manner.
//! Source: Intel SDM vol. 3A §6.5 (a fault returns to the instruction that raised it), table 6-1.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::interrupt::{self, Frame};
use crate::{cpu, print, text::Hex};

/// Where to go on after a fault; 0: nobody is prepared.
pub static RESUME_AT: AtomicU64 = AtomicU64::new(0);
/// What has faulted: its vector, or [`NONE`], and its error code.
static VECTOR: AtomicU8 = AtomicU8::new(NONE);
static ERROR_CODE: AtomicU32 = AtomicU32::new(0);
const NONE: u8 = 0xff;

/// An exception that an [`attempt!`](crate::attempt) ran into.
pub struct Fault {
    /// Which exception.
    pub vector: u8,
    /// Its error code; 0 where it has none.
    pub error_code: u32,
}

/// Makes `attempt!` work; needs [`interrupt::init`] first.
pub fn init() {
    for vector in
        [interrupt::DIVIDE_ERROR, interrupt::INVALID_OPCODE, interrupt::GENERAL_PROTECTION, interrupt::PAGE_FAULT]
    {
        interrupt::on(vector, leave);
    }
}

/// The handler: notes what happened and returns to the place that `attempt!` named instead of the instruction.
pub fn leave(frame: &mut Frame) {
    let resume_at = RESUME_AT.swap(0, Ordering::Relaxed);
    if resume_at == 0 {
        print!("vector ", frame.vector, " at ", Hex(frame.rip), "\n");
        panic!("a fault outside of attempt!");
    }
    VECTOR.store(frame.vector as u8, Ordering::Relaxed);
    ERROR_CODE.store(frame.error_code as u32, Ordering::Relaxed);
    frame.rip = resume_at;
}

/// What the last attempt ran into, if anything. For `attempt!`.
pub fn take() -> Option<Fault> {
    RESUME_AT.store(0, Ordering::Relaxed);
    let vector = VECTOR.swap(NONE, Ordering::Relaxed);
    (vector != NONE).then(|| Fault { vector, error_code: ERROR_CODE.load(Ordering::Relaxed) })
}

impl Fault {
    /// Prints its name, and where a page fault happened.
    pub fn print(&self) {
        let name = match self.vector {
            interrupt::DIVIDE_ERROR => "#DE, divide error",
            interrupt::INVALID_OPCODE => "#UD, invalid opcode",
            interrupt::GENERAL_PROTECTION => "#GP, general protection",
            interrupt::PAGE_FAULT => "#PF, page fault",
            _ => "an exception",
        };
        print!(name);
        if self.vector == interrupt::PAGE_FAULT {
            print!(" at address ", Hex(cpu::page_fault_address()), ", error code ", Hex(self.error_code.into()));
        }
        print!("\n");
    }
}

/// Runs assembler instructions that may fault: `attempt!("instruction", ...; operands)` is the [`Fault`] or `None`.
#[macro_export]
macro_rules! attempt {
    ($($instruction:literal),+ $(; $($operands:tt)*)?) => {{
        // SAFETY: the caller names what the instructions change; a fault skips the rest of them.
        unsafe {
            core::arch::asm!(
                "lea {resume}, [rip + 2f]",
                "mov [{slot}], {resume}",
                $($instruction,)+
                "2:",
                resume = out(reg) _,
                slot = in(reg) $crate::fault::RESUME_AT.as_ptr(),
                $($($operands)*)?
            );
        }
        $crate::fault::take()
    }};
}
