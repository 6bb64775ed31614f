//! A frame there and back: between two clients, through the switch and through a relay that does nothing else; and between two
//! guests, next to what it is made of.

use super::bounds::Bounds;
use super::machines::Machines;
use super::priority::Priority;
use super::release::{BUILT, SOURCE, succeed};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Frames there and back in one run, and runs of each, in turn.
const FRAMES: u32 = 2_000;
const ROUNDS: usize = 15;
/// What the switch may take, as a multiple of the relay.
const LIMIT: f64 = 1.15;
/// Bytes of a frame, and of its length before it.
const FRAME_BYTES: u8 = 64;
const RECORD_BYTES: usize = 4 + FRAME_BYTES as usize;
const WAIT: Duration = Duration::from_secs(5);

/// Measures switch and relay.
pub fn through_switch(bounds: &mut Bounds, machines: &Machines) -> Result<()> {
    let Machines { hostel, directory, priority } = machines;
    let relay = relay();
    succeed(Command::new("cc").args(["-O2", "-o", &relay]).arg(Path::new(SOURCE).join("benches/net/relay.c")))?;
    let mut fewest = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        let mut switch = priority.command(hostel);
        switch.args(["switch", "round"]).env("XDG_RUNTIME_DIR", directory);
        fewest[0] = fewest[0].min(run(&mut switch, &format!("{directory}/hostel/round.sock"))?);
        fewest[1] = fewest[1].min(through_relay(*priority, &relay, directory)?);
    }
    println!("a frame there and back, cycles: switch {:.0}, relay {:.0}", fewest[0], fewest[1]);
    bounds.at_most("round trip through the switch, to a bare relay", fewest[0] / fewest[1], LIMIT, "");
    Ok(())
}

/// Where the relay's program is.
fn relay() -> String {
    format!("{BUILT}/relay")
}

fn through_relay(priority: Priority, relay: &str, directory: &str) -> Result<f64> {
    let socket = format!("{directory}/relay");
    let cycles = run(priority.command(relay).arg(&socket), &socket);
    std::fs::remove_file(&socket)?;
    cycles
}

/// Measures the whole way between two guests: each of the two frames is a kick, a thread that wakes up for it, and half of what the
/// relay takes, whose clients wake up for what comes as that thread does. All of it has to do with processors that are busy with guests.
pub fn whole(bounds: &mut Bounds, machines: &Machines) -> Result<()> {
    let [mut trip, mut trip_of_three, mut relayed, mut bell, mut kick] = [f64::INFINITY; 5];
    for _ in 0..ROUNDS {
        trip = trip.min(machines.on_switch("round 1000")?.cycles);
        trip_of_three = trip_of_three.min(machines.on_switch_of_three("round 1000")?.cycles);
        let one = machines.beside(1, || machines.by_itself("bell 500"))?;
        (bell, kick) = (bell.min(one.cycles), kick.min(one.kick));
        relayed = relayed.min(machines.beside(2, || through_relay(machines.priority, &relay(), &machines.directory))?);
    }
    let parts = LIMIT * relayed + 2.0 * bell;
    println!(
        "between two guests, cycles: {trip:.0}, with a third port {trip_of_three:.0}; the relay beside two {relayed:.0}; a kick {kick:.0}, until it is answered {bell:.0}"
    );
    for (who, trip) in [("two guests", trip), ("two guests with a third port", trip_of_three)] {
        let what = format!("round trip between {who}, to 1.15 relays and two kicks with wake-ups");
        bounds.at_most(&what, trip / parts, 1.0, "");
    }
    Ok(())
}

/// Cycles that a frame takes there and back through what `command` starts at `socket`.
fn run(command: &mut Command, socket: &str) -> Result<f64> {
    let mut child = command.stderr(Stdio::null()).spawn().with_context(|| format!("cannot start {command:?}"))?;
    let cycles = clients(socket);
    end(&mut child)?;
    cycles
}

/// The time stamp counter, as the guests have it.
fn time_stamp() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A switch waits for the next machine; nobody is to come.
fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn clients(socket: &str) -> Result<f64> {
    let (mut here, mut there) = (connect(socket)?, connect(socket)?);
    // Each is known to the switch when it has sent something; the first goes everywhere.
    let (question, answer) =
        (record([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]), record([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]));
    let answerer = thread::spawn(move || -> std::io::Result<()> {
        let mut bytes = [0; RECORD_BYTES];
        for _ in 0..=FRAMES {
            there.read_exact(&mut bytes)?;
            there.write_all(&answer)?;
        }
        Ok(())
    });
    let mut bytes = [0; RECORD_BYTES];
    let mut start = time_stamp();
    for number in 0..=FRAMES {
        here.write_all(&question)?;
        here.read_exact(&mut bytes)?;
        ensure!(bytes == answer, "another frame came back");
        if number == 0 {
            start = time_stamp();
        }
    }
    let cycles = (time_stamp() - start) as f64 / f64::from(FRAMES);
    answerer.join().expect("it does not panic")?;
    Ok(cycles)
}

fn connect(socket: &str) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if start.elapsed() > WAIT => return Err(error).with_context(|| format!("connect to {socket}")),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A frame behind its length.
fn record(to: [u8; 6], from: [u8; 6]) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[3] = FRAME_BYTES;
    record[4..10].copy_from_slice(&to);
    record[10..16].copy_from_slice(&from);
    record[16..18].copy_from_slice(&[0x88, 0xb5]);
    record
}
