//! An exception that a guest is to get.
//!
//! Source: Intel SDM vol. 3A §6.13 (error codes), table 6-1.

use guest::interrupt::{GENERAL_PROTECTION, INVALID_OPCODE, PAGE_FAULT};

pub const DOUBLE_FAULT: u8 = 8;

/// Vector and error code.
#[derive(Clone, Copy)]
pub struct Fault {
    pub vector: u8,
    /// 0 where the vector has none.
    pub code: u32,
}

impl Fault {
    /// #GP for a selector, or with the code 0.
    pub const fn protection(selector: u16) -> Fault {
        Fault { vector: GENERAL_PROTECTION, code: (selector & !3) as u32 }
    }

    /// #UD.
    pub const fn undefined() -> Fault {
        Fault { vector: INVALID_OPCODE, code: 0 }
    }

    /// #PF. Who makes it has set CR2.
    pub const fn page(code: u32) -> Fault {
        Fault { vector: PAGE_FAULT, code }
    }

    /// Whether the processor pushes an error code.
    pub fn has_code(&self) -> bool {
        self.vector < 32 && 1u32 << self.vector & 0x6022_7d00 != 0
    }
}
