//! What the measurements run on: a loop of exits from a list, a handler, a bus with all the ports of a machine, a serial port.

use hostel::arch::cpu_state::CpuState;
use hostel::bus::bus::{Bus, Shared};
use hostel::bus::device::BusDevice;
use hostel::bus::irq::Unconnected;
use hostel::bus::request::GuestRequests;
use hostel::bus::stream::SerialOutput;
use hostel::devices::acpi_pm::AcpiPm;
use hostel::devices::debug_exit::DebugExit;
use hostel::devices::i8042::I8042;
use hostel::devices::pvpanic::Pvpanic;
use hostel::devices::serial::Serial;
use hostel::kvm::exit::{Exit, Reply};
use hostel::machine::io::{IoHandler, MachineIo};
use hostel::machine::notices::Notices;
use hostel::vcpu::cpu::Cpu;
use hostel::vcpu::handler::{ExitHandler, ExitObserver, StopReason};
use hostel::vcpu::run_loop::{Control, run_loop};
use hostel::vcpu::scripted::ScriptedCpu;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Transmit holding register of COM1.
pub const THR: Exit = Exit::PioWrite { port: 0x3f8, size: 1, value: b'x' as u64 };

/// A line that takes everything.
struct Wire;

impl SerialOutput for Wire {
    fn put(&mut self, _byte: u8) -> bool {
        true
    }
    fn has_room(&self) -> bool {
        true
    }
    fn input_has_room(&mut self) {}
}

/// Ends the run at the first interruption; there is none.
struct NoOrders;

impl Control for NoOrders {
    fn interrupted(&mut self, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        ControlFlow::Break(StopReason::Told)
    }
}

/// A vCPU that runs into `count` writes to [`THR`], then halts, in `state` at each of them.
pub fn cpu(count: usize, state: CpuState) -> ScriptedCpu {
    let mut exits = vec![THR; count];
    exits.push(Exit::Halt);
    ScriptedCpu::new(exits).in_state(state)
}

/// What one of `count` exits takes in the run loop, in nanoseconds.
pub fn timed(cpu: &mut ScriptedCpu, io: &Arc<MachineIo>, observer: Option<&mut dyn ExitObserver>, count: usize) -> f64 {
    let mut handler = IoHandler(io.clone());
    let start = Instant::now();
    let end = run_loop(cpu, &mut handler, observer, &mut NoOrders);
    let elapsed = start.elapsed();
    assert!(matches!(end, Ok(StopReason::Halted)), "{end:?}");
    elapsed.as_secs_f64() * 1e9 / count as f64
}

/// The same in a loop that knows no observer: [`run_loop`] without its branch.
pub fn timed_without_branch(cpu: &mut ScriptedCpu, io: &Arc<MachineIo>, count: usize) -> f64 {
    let mut handler = IoHandler(io.clone());
    let start = Instant::now();
    let end = loop_without_branch(cpu, &mut handler, &mut NoOrders);
    let elapsed = start.elapsed();
    assert_eq!(end, StopReason::Halted);
    elapsed.as_secs_f64() * 1e9 / count as f64
}

#[inline(never)]
fn loop_without_branch(cpu: &mut dyn Cpu, handler: &mut dyn ExitHandler, control: &mut dyn Control) -> StopReason {
    let mut reply = Reply::Resume;
    loop {
        let exit = cpu.run(reply).expect("a list of exits does not fail");
        if exit == Exit::Interrupted {
            if let ControlFlow::Break(reason) = control.interrupted(cpu) {
                return reason;
            }
            reply = Reply::Resume;
            continue;
        }
        reply = match handler.handle(exit, cpu) {
            ControlFlow::Continue(reply) => reply,
            ControlFlow::Break(reason) => return reason,
        };
    }
}

/// The port devices of a machine around COM1, without a host behind them.
pub fn machine() -> MachineIo {
    let requests = GuestRequests::default();
    let mut ports = Bus::default();
    let mut place = |name, base, size, device: Shared<dyn BusDevice>| {
        ports.insert(name, base, size, device).expect("the ranges do not overlap");
    };
    place("i8042", 0x60, 5, shared(I8042::new(requests.clone())));
    place("debug-exit", 0xf4, 4, shared(DebugExit::new(requests.clone())));
    place("COM1", 0x3f8, 8, shared(Serial::new(Box::new(Unconnected), Box::new(Wire))));
    place("pvpanic", 0x505, 1, shared(Pvpanic::new(requests.clone())));
    place("ACPI", 0x600, 4, shared(AcpiPm::new(Box::new(Unconnected), requests.clone())));
    MachineIo {
        ports,
        mmio: Bus::default(),
        ioapic: None,
        requests,
        exits: AtomicU64::new(0),
        ends_on_panic: true,
        notices: Notices::new(Box::new(|_| {})),
    }
}

fn shared<D>(device: D) -> Shared<D> {
    Arc::new(Mutex::new(device))
}
