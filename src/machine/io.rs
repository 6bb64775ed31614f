//! Answers exits: hands accesses to the buses, and everything else to whoever knows it.

use super::notices::Notices;
use crate::bus::bus::{Bus, Shared, lock};
use crate::bus::request::{GuestRequest, GuestRequests};
use crate::devices::ioapic::Ioapic;
use crate::kvm::exit::{Exit, Reply};
use crate::vcpu::cpu::Cpu;
use crate::vcpu::handler::{ExitHandler, StopReason};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Answer to a hypercall that nobody implements: -KVM_ENOSYS (KVM API, "Linux KVM Hypercall").
const NO_SUCH_HYPERCALL: u64 = -1000i64 as u64;
/// KVM_SYSTEM_EVENT_SHUTDOWN (KVM API §5 `system_event`).
const EVENT_SHUTDOWN: u32 = 1;
/// KVM_SYSTEM_EVENT_RESET.
const EVENT_RESET: u32 = 2;
/// KVM_SYSTEM_EVENT_CRASH.
const EVENT_CRASH: u32 = 3;

/// What the vCPUs of a machine share to have their exits answered.
pub struct MachineIo {
    /// Ports.
    pub ports: Bus,
    /// Memory-mapped registers.
    pub mmio: Bus,
    /// The IOAPIC, where it is ours.
    pub ioapic: Option<Shared<Ioapic>>,
    /// What devices ask of the machine.
    pub requests: GuestRequests,
    /// Exits so far: the control thread sees by it whether the guest moves.
    pub exits: AtomicU64,
    /// Whether a panic of the guest's kernel ends the machine.
    pub ends_on_panic: bool,
    /// What the user is told.
    pub notices: Notices,
}

/// One vCPU's way to the machine's devices.
#[derive(Clone)]
pub struct IoHandler(pub Arc<MachineIo>);

impl ExitHandler for IoHandler {
    fn handle(&mut self, exit: Exit, cpu: &mut dyn Cpu) -> ControlFlow<StopReason, Reply> {
        let io = &*self.0;
        io.exits.fetch_add(1, Ordering::Relaxed);
        let reply = match exit {
            Exit::PioRead { port, size } => Reply::Value(io.ports.read(port.into(), size)),
            Exit::PioWrite { port, size, value } => {
                io.ports.write(port.into(), size, value);
                Reply::Resume
            }
            Exit::MmioRead { addr, size } => Reply::Value(io.mmio.read(addr, size)),
            Exit::MmioWrite { addr, size, value } => {
                io.mmio.write(addr, size, value);
                Reply::Resume
            }
            // What KVM knows it answers, only later; what it refuses is #GP, as without the filter.
            Exit::MsrRead { index, filtered: true } => cpu.msr(index).map_or(Reply::Fault, Reply::Value),
            Exit::MsrWrite { index, filtered: true, value } => {
                cpu.set_msr(index, value).map_or(Reply::Fault, |()| Reply::Resume)
            }
            Exit::MsrRead { index, .. } => io.refuse_msr("RDMSR", index),
            Exit::MsrWrite { index, .. } => io.refuse_msr("WRMSR", index),
            Exit::IoapicEoi { vector } => {
                if let Some(ioapic) = &io.ioapic {
                    lock(ioapic).end_of_interrupt(vector);
                }
                Reply::Resume
            }
            Exit::Halt => return ControlFlow::Break(StopReason::Halted),
            Exit::Shutdown => return ControlFlow::Break(StopReason::TripleFault),
            Exit::Failure(failure) => return ControlFlow::Break(StopReason::Failed(failure)),
            Exit::SystemEvent { kind } => {
                io.file_system_event(kind);
                Reply::Resume
            }
            Exit::Hypercall { .. } => Reply::Value(NO_SUCH_HYPERCALL),
            Exit::Debug { .. } | Exit::SetTpr | Exit::IrqWindowOpen | Exit::Interrupted => Reply::Resume,
        };
        match io.requests.take().filter(|request| io.ends_machine(*request)) {
            Some(request) => ControlFlow::Break(StopReason::Request(request)),
            None => ControlFlow::Continue(reply),
        }
    }
}

impl MachineIo {
    /// Whether a request ends the machine; if not, the user is told of it.
    fn ends_machine(&self, request: GuestRequest) -> bool {
        match request {
            GuestRequest::CrashLoaded => self.notices.panicked("its crash kernel takes over"),
            GuestRequest::Panicked if !self.ends_on_panic => self.notices.panicked("--on-panic continue"),
            _ => return true,
        }
        false
    }

    /// KVM does not know the MSR, and neither do we.
    fn refuse_msr(&self, instruction: &str, index: u32) -> Reply {
        self.notices.unknown_msr(instruction, index);
        Reply::Fault
    }

    fn file_system_event(&self, kind: u32) {
        match kind {
            EVENT_SHUTDOWN => self.requests.file(GuestRequest::PowerOff),
            EVENT_RESET => self.requests.file(GuestRequest::Reset),
            EVENT_CRASH => self.requests.file(GuestRequest::Panicked),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::device::BusDevice;
    use crate::vcpu::scripted::ScriptedCpu;
    use std::sync::{Mutex, mpsc};

    fn handler() -> (IoHandler, mpsc::Receiver<String>) {
        let (sender, names) = mpsc::channel();
        let io = MachineIo {
            ports: Bus::default(),
            mmio: Bus::default(),
            ioapic: None,
            requests: GuestRequests::default(),
            exits: AtomicU64::new(0),
            ends_on_panic: false,
            notices: Notices::new(Box::new(move |text| sender.send(text).unwrap())),
        };
        (IoHandler(Arc::new(io)), names)
    }

    fn handle(handler: &mut IoHandler, exit: Exit) -> ControlFlow<StopReason, Reply> {
        handler.handle(exit, &mut ScriptedCpu::default())
    }

    #[test]
    fn sec22_unhandled_reads_are_all_ones() {
        let (mut handler, _names) = handler();
        let read = handle(&mut handler, Exit::PioRead { port: 0x1234, size: 2 });
        assert_eq!(read, ControlFlow::Continue(Reply::Value(0xffff)));
        let read = handle(&mut handler, Exit::MmioRead { addr: u64::MAX - 2, size: 3 });
        assert_eq!(read, ControlFlow::Continue(Reply::Value(0xff_ffff)));
    }

    #[test]
    fn an_unknown_msr_faults_and_is_named_once() {
        let (mut handler, names) = handler();
        for _ in 0..3 {
            assert_eq!(
                handle(&mut handler, Exit::MsrRead { index: 0x1234_5678, filtered: false }),
                ControlFlow::Continue(Reply::Fault)
            );
        }
        for index in 0..1000 {
            assert_eq!(
                handle(&mut handler, Exit::MsrWrite { index, filtered: false, value: 0 }),
                ControlFlow::Continue(Reply::Fault)
            );
        }
        let names: Vec<_> = names.try_iter().collect();
        assert!(names[0].contains("RDMSR 0x12345678"), "{}", names[0]);
        assert_eq!(names.len(), 64, "a guest that tries them all does not fill the log");
    }

    #[test]
    fn a_filtered_msr_is_answered_by_kvm_and_its_refusal_faults() {
        let (mut handler, names) = handler();
        let mut cpu = ScriptedCpu::default().with_msr(0x1b, 5);
        let mut handle = |exit| handler.handle(exit, &mut cpu);
        let (read, write) = (
            |index| Exit::MsrRead { index, filtered: true },
            |index| Exit::MsrWrite { index, filtered: true, value: 6 },
        );
        assert_eq!(handle(read(0x1b)), ControlFlow::Continue(Reply::Value(5)));
        assert_eq!(handle(write(0x1b)), ControlFlow::Continue(Reply::Resume));
        assert_eq!(handle(read(0x1b)), ControlFlow::Continue(Reply::Value(6)));
        assert_eq!(handle(read(0x1c)), ControlFlow::Continue(Reply::Fault));
        assert_eq!(handle(write(0x1c)), ControlFlow::Continue(Reply::Fault));
        assert_eq!(names.try_iter().count(), 0);
    }

    /// Asks for power off when touched.
    struct Off(GuestRequests);

    impl BusDevice for Off {
        fn read(&mut self, _offset: u64, _size: u8) -> u64 {
            0
        }
        fn write(&mut self, _offset: u64, _size: u8, _value: u64) {
            self.0.file(GuestRequest::PowerOff);
        }
        fn register_name(&self, _offset: u64, _write: bool) -> &'static str {
            "OFF"
        }
    }

    #[test]
    fn a_request_ends_the_run_before_the_next_instruction() {
        let (mut handler, _names) = handler();
        let io = Arc::get_mut(&mut handler.0).unwrap();
        io.ports.insert("off", 0x600, 1, Arc::new(Mutex::new(Off(io.requests.clone())))).unwrap();
        let end = handle(&mut handler, Exit::PioWrite { port: 0x600, size: 1, value: 1 });
        assert_eq!(end, ControlFlow::Break(StopReason::Request(GuestRequest::PowerOff)));
        let end = handle(&mut handler, Exit::SystemEvent { kind: EVENT_RESET });
        assert_eq!(end, ControlFlow::Break(StopReason::Request(GuestRequest::Reset)));
    }

    #[test]
    fn a_panic_that_ends_nothing_is_told_once() {
        let (mut handler, names) = handler();
        for request in [GuestRequest::CrashLoaded, GuestRequest::Panicked, GuestRequest::Panicked] {
            handler.0.requests.file(request);
            let on = handle(&mut handler, Exit::PioWrite { port: 0x505, size: 1, value: 1 });
            assert_eq!(on, ControlFlow::Continue(Reply::Resume));
        }
        assert_eq!(names.try_iter().count(), 1);
    }
}
