//! Two machines from code: one runs a sample guest and is watched, the other is twelve bytes.
//!
//! ```sh
//! cargo run --example embed
//! ```

use hostel::config::FormatChoice;
use hostel::debug::event::ExitKind;
use hostel::embed::machine::{Machine, MachineError};
use hostel::kvm::exit::Exit;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// Writes "Hi" to COM1 and halts.
const CODE: [u8; 12] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'H', //             mov al, 'H'
    0xee, //                   out dx, al
    0xb0, b'i', //             mov al, 'i'
    0xee, //                   out dx, al
    0xfa, 0xf4, //             cli; hlt
];

fn main() -> Result<(), MachineError> {
    run()
}

/// Builds the machines, one after the other.
pub fn run() -> Result<(), MachineError> {
    let counts = Arc::new(Mutex::new(BTreeMap::<_, u32>::new()));
    let seen = counts.clone();
    let mut machine = Machine::builder("hello")
        .memory(16 << 20)
        .on_exit(move |_vcpu, exit, _reply| {
            let kind = ExitKind::of(&exit).name();
            *seen.lock().expect("nobody panics with the counts").entry(kind).or_default() += 1;
        })
        .build()?;
    machine.start();
    let end = machine.wait(LONG_ENOUGH)?;
    println!("the guest's end: {end:?}");
    print!("its console: {}", String::from_utf8_lossy(&machine.console()));
    println!("its exits: {:?}", counts.lock().expect("nobody panics with the counts"));
    drop(machine);

    let mut machine = Machine::builder_of("Hi", CODE.to_vec())
        .format(FormatChoice::Flat64)
        .memory(1 << 20)
        .on_exit(|vcpu, exit, _reply| {
            if let Exit::PioWrite { port, value, .. } = exit {
                println!("vCPU {vcpu} wrote {value:#x} to port {port:#x}");
            }
        })
        .build()?;
    machine.start();
    println!("the other's end: {:?}", machine.wait(LONG_ENOUGH)?);
    println!("its console: {}", String::from_utf8_lossy(&machine.console()));
    Ok(())
}
