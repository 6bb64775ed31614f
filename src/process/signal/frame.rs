//! The frame that a handler finds on its stack, and that rt_sigreturn(2) reads back: `struct rt_sigframe`, bit for bit.
//!
//! ```text
//! RSP ->  address of the code that returns         8 bytes
//!         struct ucontext: stack, registers, mask  304
//!         siginfo_t                                128
//!         (up to 63 bytes, then, aligned to 64)
//!         floating-point and vector state          512 and more
//! ```
//!
//! Pure functions over bytes. What comes back is a hostile program's: only flags that a program may change are taken from it, and selectors
//! that lead nowhere are told.
//! Sources: System V ABI AMD64 §3.2.2 (red zone); Linux `arch/x86/include/asm/sigframe.h`, `arch/x86/include/uapi/asm/sigcontext.h`,
//! `arch/x86/kernel/signal_64.c`; sigaltstack(2).

use super::extended::{Layout, long};
use super::info::{INFO_SIZE, Info};
use crate::arch::cpu_state::{RFLAGS_FIXED, RFLAGS_IF, Registers};
use crate::process::stub::{USER_CS, USER_DS};

/// Bytes of a `struct ucontext`.
pub const CONTEXT_SIZE: usize = 304;
/// Bytes of the frame, without extended state.
pub const FRAME_SIZE: usize = 8 + CONTEXT_SIZE + INFO_SIZE;
/// Bytes below RSP that belong to whoever is interrupted.
const RED_ZONE: u64 = 128;

/// Offsets in the context: flags, alternate stack, registers as Linux orders them, and what stands behind these.
const FLAGS: usize = 0;
const STACK: usize = 16;
const REGISTERS: usize = 40;
const SELECTORS: usize = REGISTERS + 18 * 8;
const ERROR: usize = SELECTORS + 8;
const TRAP: usize = ERROR + 8;
const OLD_MASK: usize = TRAP + 8;
const CR2: usize = OLD_MASK + 8;
const EXTENDED: usize = CR2 + 8;
const MASK: usize = CONTEXT_SIZE - 8;

/// UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
const HAS_EXTENDED: u64 = 1;
const HAS_SS: u64 = 2;
const STRICT_SS: u64 = 4;

/// Flags that a frame may change: AC, RF, OF, DF, TF, SF, ZF, AF, PF, CF (Linux FIX_EFLAGS).
const CHANGEABLE: u64 = 0x5_0dd5;
/// Flags that a program has, those that it can change by itself: besides them NT and ID.
const OWN: u64 = CHANGEABLE | 1 << 14 | 1 << 21;
/// Flags that are off in a handler: DF, RF, TF.
const CLEARED: u64 = 1 << 10 | 1 << 16 | 1 << 8;

/// SS_AUTODISARM: the alternate stack is forgotten while a handler runs on it.
pub const AUTO_DISARM: i32 = 1 << 31;

/// The stack of sigaltstack(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AltStack {
    /// Its lowest address.
    pub start: u64,
    /// SS_DISABLE, SS_AUTODISARM.
    pub flags: i32,
    /// Bytes; 0: there is none.
    pub size: u64,
}

impl Default for AltStack {
    fn default() -> AltStack {
        AltStack { start: 0, flags: libc::SS_DISABLE, size: 0 }
    }
}

impl AltStack {
    /// `stack_t` as a program gives it.
    pub fn from_bytes(bytes: &[u8]) -> AltStack {
        let flags = i32::from_le_bytes(bytes[8..12].try_into().expect("a word has four bytes"));
        AltStack { start: long(bytes, 0), flags, size: long(bytes, 16) }
    }

    /// `stack_t`.
    pub fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_le_bytes());
        bytes[16..].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }

    /// Whether `rsp` is on it, as far as that is of interest.
    pub fn is_used(&self, rsp: u64) -> bool {
        self.flags & AUTO_DISARM == 0 && self.holds(rsp)
    }

    fn holds(&self, rsp: u64) -> bool {
        rsp > self.start && rsp - self.start <= self.size
    }
}

/// Where a frame goes: its address, and that of the extended state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What RSP is in the handler.
    pub frame: u64,
    /// Extended state.
    pub extended: u64,
}

/// Where the frame of a handler with these flags goes when RSP is `rsp`; `None` where the alternate stack is too small for it.
pub fn place(rsp: u64, action_flags: u64, stack: &AltStack, layout: Layout) -> Option<Place> {
    const ON_STACK: u64 = libc::SA_ONSTACK as u64;
    let nested = stack.is_used(rsp);
    let mut at = rsp.wrapping_sub(RED_ZONE);
    let enters = action_flags & ON_STACK != 0 && stack.size != 0 && !stack.is_used(at);
    if enters {
        at = stack.start.wrapping_add(stack.size);
    }
    let extended = at.wrapping_sub(layout.frame_size() as u64) & !63;
    // As behind a call: 16 bytes more would be aligned.
    let frame = (extended.wrapping_sub(FRAME_SIZE as u64) & !15).wrapping_sub(8);
    let fits = !(nested || enters) || stack.holds(frame);
    fits.then_some(Place { frame, extended })
}

/// What goes into a frame besides where it lies.
pub struct Interrupted<'a> {
    /// Registers where the thread was interrupted.
    pub regs: &'a Registers,
    /// The last exception: vector, error code, address of a page fault.
    pub trap: [u64; 3],
    /// Signals that are blocked when the handler returns.
    pub mask: u64,
    /// The alternate stack.
    pub stack: &'a AltStack,
    /// Whether more than x87 and SSE is saved.
    pub is_extended: bool,
}

/// The frame, without extended state.
pub fn build(interrupted: &Interrupted, info: &Info, restorer: u64, place: Place) -> [u8; FRAME_SIZE] {
    let mut frame = [0; FRAME_SIZE];
    frame[..8].copy_from_slice(&restorer.to_le_bytes());
    frame[8 + CONTEXT_SIZE..].copy_from_slice(&info.bytes());
    let context = &mut frame[8..8 + CONTEXT_SIZE];
    let mut put = |at: usize, value: u64| context[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let extended = if interrupted.is_extended { HAS_EXTENDED } else { 0 };
    put(FLAGS, extended | HAS_SS | STRICT_SS);
    for (index, value) in ordered(interrupted.regs).into_iter().enumerate() {
        put(REGISTERS + index * 8, value);
    }
    put(SELECTORS, u64::from(USER_CS) | u64::from(USER_DS) << 48);
    let [trap, error, cr2] = interrupted.trap;
    put(ERROR, error);
    put(TRAP, trap);
    put(OLD_MASK, interrupted.mask);
    put(CR2, cr2);
    put(EXTENDED, place.extended);
    put(MASK, interrupted.mask);
    context[STACK..STACK + 24].copy_from_slice(&interrupted.stack.bytes());
    frame
}

/// Registers with which a handler begins.
pub fn enter(regs: &Registers, signal: i32, handler: u64, place: Place) -> Registers {
    Registers {
        rip: handler,
        rsp: place.frame,
        rdi: signal as u64,
        rsi: place.frame + (8 + CONTEXT_SIZE) as u64,
        rdx: place.frame + 8,
        rax: 0,
        rflags: regs.rflags & !CLEARED,
        ..*regs
    }
}

/// A context that a program wants to go on in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its registers; flags that are not the program's are those of now.
    pub regs: Registers,
    /// Whether its selectors are those of a program.
    pub is_valid: bool,
    /// Signals that it blocks.
    pub mask: u64,
    /// The alternate stack.
    pub stack: AltStack,
    /// Address of extended state; 0 for none.
    pub extended: u64,
}

impl Context {
    /// Reads a context that stands in a frame; `now` are the registers with which it was asked for.
    pub fn read(bytes: &[u8; CONTEXT_SIZE], now: &Registers) -> Context {
        let mut values = [0; 18];
        for (index, value) in values.iter_mut().enumerate() {
            *value = long(bytes, REGISTERS + index * 8);
        }
        let mut regs = from_ordered(values);
        regs.rflags = now.rflags & !CHANGEABLE | regs.rflags & CHANGEABLE;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]) | 3;
        let (cs, ss) = (half(SELECTORS), half(SELECTORS + 6));
        let strict = long(bytes, FLAGS) & STRICT_SS != 0;
        let is_valid = cs == USER_CS && (ss == USER_DS || !strict);
        let stack = AltStack::from_bytes(&bytes[STACK..STACK + 24]);
        Context { regs, is_valid, mask: long(bytes, MASK), stack, extended: long(bytes, EXTENDED) }
    }
}

/// Flags as a program may have them in ring 3, whatever is asked for: no right to ports, no mode but 64 bits, interrupts on.
pub fn safe_flags(flags: u64) -> u64 {
    flags & OWN | RFLAGS_FIXED | RFLAGS_IF
}

/// Whether an IRETQ can go there: all bits from 47 on are the same.
pub fn is_canonical(address: u64) -> bool {
    matches!(address as i64 >> 47, 0 | -1)
}

/// Registers in the order of `struct sigcontext`.
fn ordered(regs: &Registers) -> [u64; 18] {
    [
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rdi,
        regs.rsi,
        regs.rbp,
        regs.rbx,
        regs.rdx,
        regs.rax,
        regs.rcx,
        regs.rsp,
        regs.rip,
        regs.rflags,
    ]
}

fn from_ordered(values: [u64; 18]) -> Registers {
    let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags] = values;
    Registers { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

#[cfg(test)]
mod tests {
    use super::super::info::SI_USER;
    use super::*;
    use proptest::prelude::*;
    use std::mem::{offset_of, size_of};

    fn regs() -> Registers {
        from_ordered(std::array::from_fn(|index| index as u64 + 0x100))
    }

    fn layout() -> Layout {
        Layout::new(7, |_| (576, 256))
    }

    #[test]
    fn fields_lie_where_the_c_library_has_them() {
        // glibc's ucontext_t is longer than the kernel's: room for states that is not in the frame.
        assert_eq!(offset_of!(libc::ucontext_t, uc_mcontext), REGISTERS);
        assert_eq!(offset_of!(libc::ucontext_t, uc_stack), STACK);
        assert_eq!(offset_of!(libc::ucontext_t, uc_sigmask), MASK);
        assert_eq!(REGISTERS + offset_of!(libc::mcontext_t, fpregs), EXTENDED);
        assert_eq!(size_of::<libc::siginfo_t>(), INFO_SIZE);
        for (register, index) in [(libc::REG_R8, 0), (libc::REG_RDI, 8), (libc::REG_RSP, 15), (libc::REG_EFL, 17)] {
            assert_eq!(register, index);
        }
        assert_eq!(REGISTERS + libc::REG_ERR as usize * 8, ERROR);
        assert_eq!(REGISTERS + libc::REG_TRAPNO as usize * 8, TRAP);
        assert_eq!(REGISTERS + libc::REG_CR2 as usize * 8, CR2);
    }

    #[test]
    fn a_frame_is_read_back_as_it_was_built() {
        let (regs, stack) = (regs(), AltStack { start: 0x1000, flags: 0, size: 0x2000 });
        let place = place(0x7fff_0000, 0, &stack, layout()).unwrap();
        let interrupted = Interrupted { regs: &regs, trap: [14, 6, 8], mask: 5, stack: &stack, is_extended: true };
        let frame = build(&interrupted, &Info::new(10, SI_USER), 0x4000, place);
        let context = Context::read(frame[8..8 + CONTEXT_SIZE].try_into().unwrap(), &regs);
        assert_eq!(context, Context { regs, is_valid: true, mask: 5, stack, extended: place.extended });
        assert_eq!((long(&frame, 0), frame[8 + CONTEXT_SIZE], long(&frame, 8)), (0x4000, 10, 7));
        assert_eq!([TRAP, ERROR, CR2].map(|at| long(&frame, 8 + at)), [14, 6, 8]);
    }

    #[test]
    fn a_frame_lies_below_the_red_zone_and_is_aligned_as_behind_a_call() {
        let none = AltStack::default();
        for rsp in 0x7fff_0000u64..0x7fff_0050 {
            let place = place(rsp, libc::SA_ONSTACK as u64, &none, layout()).unwrap();
            assert_eq!((place.frame % 16, place.extended % 64), (8, 0));
            assert!(place.extended + layout().frame_size() as u64 <= rsp - 128);
            assert!(place.frame + FRAME_SIZE as u64 <= place.extended);
        }
        assert!(place(100, 0, &none, layout()).is_some(), "it wraps, and cannot be written there");
    }

    #[test]
    fn the_alternate_stack_is_used_when_it_is_wanted_and_not_left() {
        let stack = AltStack { start: 0x10_0000, flags: 0, size: 0x2000 };
        let wanted = libc::SA_ONSTACK as u64;
        let first = place(0x7fff_0000, wanted, &stack, layout()).unwrap();
        assert!((0x10_1000..0x10_2000).contains(&first.frame));
        let second = place(first.frame, wanted, &stack, layout()).unwrap();
        assert!(second.frame < first.frame - RED_ZONE && stack.holds(second.frame));
        assert_eq!(place(0x10_0400, wanted, &stack, layout()), None, "it is full");
        assert_eq!(place(0x10_0400, 0, &stack, layout()), None, "even for a handler that did not want it");
        let disarmed = AltStack { flags: AUTO_DISARM, ..stack };
        assert_eq!(place(first.frame, wanted, &disarmed, layout()), Some(first), "whoever is on it is not known");
    }

    proptest! {
        #[test]
        fn whatever_a_context_holds_flags_stay_a_programs(
            bytes in prop::collection::vec(any::<u8>(), CONTEXT_SIZE), flags in any::<u64>(),
        ) {
            let now = Registers { rflags: safe_flags(flags), ..Registers::default() };
            let bytes: [u8; CONTEXT_SIZE] = bytes.try_into().unwrap();
            let context = Context::read(&bytes, &now);
            prop_assert_eq!(context.regs.rflags & !CHANGEABLE, now.rflags & !CHANGEABLE);
            prop_assert_eq!(safe_flags(context.regs.rflags), context.regs.rflags);
            // Most selectors lead nowhere; the two that do not are Linux' own.
            prop_assert_eq!(context.is_valid, bytes[SELECTORS] | 3 == 0x33 && bytes[SELECTORS + 1] == 0
                && (bytes[FLAGS] & 4 == 0 || (bytes[SELECTORS + 6] | 3 == 0x2b && bytes[SELECTORS + 7] == 0)));
        }
    }

    #[test]
    fn flags_that_give_rights_are_never_a_programs() {
        assert_eq!(safe_flags(!0) & (3 << 12 | 1 << 17 | 3 << 19), 0, "IOPL, VM, VIF, VIP");
        assert_eq!(safe_flags(0), 0x202);
        let canonical = [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX].map(is_canonical);
        assert_eq!((canonical, is_canonical(1 << 47), is_canonical(1 << 63)), ([true; 4], false, false));
    }
}
