//! A frame there and back between two clients, through the switch and through a relay that does nothing else.

use super::bounds::Bounds;
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

/// Measures both.
pub fn measure(bounds: &mut Bounds, hostel: &str, directory: &str) -> Result<()> {
    let relay = format!("{BUILT}/relay");
    succeed(Command::new("cc").args(["-O2", "-o", &relay]).arg(Path::new(SOURCE).join("benches/net/relay.c")))?;
    let mut fewest = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        let mut switch = Command::new(hostel);
        switch.args(["switch", "round"]).env("XDG_RUNTIME_DIR", directory);
        fewest[0] = fewest[0].min(run(&mut switch, &format!("{directory}/hostel/round.sock"))?);
        let socket = format!("{directory}/relay");
        fewest[1] = fewest[1].min(run(Command::new(&relay).arg(&socket), &socket)?);
        std::fs::remove_file(&socket)?;
    }
    println!("a frame there and back, us: switch {:.1}, relay {:.1}", fewest[0] * 1e6, fewest[1] * 1e6);
    bounds.at_most("round trip through the switch, to a bare relay", fewest[0] / fewest[1], LIMIT, "");
    Ok(())
}

/// Seconds that a frame takes there and back through what `command` starts at `socket`.
fn run(command: &mut Command, socket: &str) -> Result<f64> {
    let mut child = command.stderr(Stdio::null()).spawn().with_context(|| format!("cannot start {command:?}"))?;
    let time = clients(socket);
    end(&mut child)?;
    time
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
    let mut start = Instant::now();
    for number in 0..=FRAMES {
        here.write_all(&question)?;
        here.read_exact(&mut bytes)?;
        ensure!(bytes == answer, "another frame came back");
        if number == 0 {
            start = Instant::now();
        }
    }
    let time = start.elapsed().as_secs_f64() / f64::from(FRAMES);
    answerer.join().expect("it does not panic")?;
    Ok(time)
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
