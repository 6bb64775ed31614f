//! What a serial-port exit costs in Hostel itself: run loop, handler, bus and device, on exits from a list instead of KVM.
//!
//! `cargo bench --bench exit`. The guest writes characters to the transmit holding register in polled mode; the line takes
//! each at once, so nothing of the console is measured. The bus has all the ports of a machine.

#[path = "report/bounds.rs"]
mod bounds;

use bounds::Bounds;
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
use hostel::kvm::exit::Exit;
use hostel::machine::io::{IoHandler, MachineIo};
use hostel::machine::notices::Notices;
use hostel::vcpu::cpu::Cpu;
use hostel::vcpu::handler::StopReason;
use hostel::vcpu::run_loop::{Control, run_loop};
use hostel::vcpu::scripted::ScriptedCpu;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Exits in one run of the loop, and runs.
const EXITS: usize = 200_000;
const RUNS: usize = 50;
const LIMIT_NS: f64 = 150.0;

/// Transmit holding register of COM1.
const THR: Exit = Exit::PioWrite { port: 0x3f8, size: 1, value: b'x' as u64 };

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

fn main() -> ExitCode {
    let mut handler = IoHandler(Arc::new(machine()));
    let mut exits = vec![THR; EXITS];
    exits.push(Exit::Halt);
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let mut cpu = ScriptedCpu::new(exits.clone());
            let start = Instant::now();
            let end = run_loop(&mut cpu, &mut handler, None, &mut NoOrders);
            let elapsed = start.elapsed();
            assert!(matches!(end, Ok(StopReason::Halted)), "{end:?}");
            elapsed.as_secs_f64() * 1e9 / EXITS as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "a write to the transmit holding register, {RUNS} runs of {EXITS} exits: median {:.1} ns",
        times[RUNS / 2]
    );
    let mut bounds = Bounds::default();
    bounds.at_most("serial-port exit without KVM", times[0], LIMIT_NS, " ns");
    bounds.finish()
}

/// The port devices of a machine around COM1, without a host behind them.
fn machine() -> MachineIo {
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
