//! What the three designs of the sample kernel's file server give: requests a second and how long one takes, at 1, 8 and 64
//! connections, for a file that is kept in memory and for one that a slow disk gives.
//!
//! `cargo bench --bench servers`. Needs KVM and passt. The clients are threads of this program, each with a connection of its own on
//! which it asks again when it has the answer. Where KVM interprets ring 0 each frame costs the sample kernel milliseconds, and the
//! figures tell of that first; so the disk is slow enough to be what is waited for, and what is bounded are ratios between designs.

#[path = "../report/bounds.rs"]
mod bounds;
#[allow(dead_code, reason = "its main is the example's")]
#[path = "../../examples/client.rs"]
mod client;
#[path = "../report/release.rs"]
mod release;
#[path = "../../tests/common/site.rs"]
mod site;

use anyhow::{Context, Result, anyhow, ensure};
use bounds::Bounds;
use client::Connection;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

const DESIGNS: [&str; 3] = ["single", "workers 8", "states"];
const CONNECTIONS: [usize; 3] = [1, 8, 64];
/// The files: one that the server keeps, and one that it reads from the disk each time, in three pieces.
const FILES: [(&str, usize); 2] = [("kept", 1 << 10), ("disk", 10 << 10)];
/// How long the disk takes for a piece.
const DELAY: &str = "50ms";
/// How long is measured.
const TIME: Duration = Duration::from_secs(4);

/// What one measurement gives.
#[derive(Clone, Copy, Default)]
struct Figures {
    per_second: f64,
    median_ms: f64,
    most_ms: f64,
}

fn main() -> Result<ExitCode> {
    let hostel = release::installed(&release::default_build()?)?;
    let directory = format!("{}/servers", release::BUILT);
    fs::create_dir_all(&directory)?;
    let files = FILES.map(|(name, bytes)| (name.to_owned(), site::content(bytes, bytes)));
    let disk = format!("{directory}/disk.img");
    fs::write(&disk, site::archive(&files))?;
    println!("disk: {DELAY} a read of up to 4 KiB; each cell: requests a second, median and longest time in ms");
    println!("| design | file | {} |", CONNECTIONS.map(|count| format!("{count} at once")).join(" | "));
    println!("|---|---|---|---|---|");
    let mut all = [[[Figures::default(); CONNECTIONS.len()]; FILES.len()]; DESIGNS.len()];
    for (design, rows) in DESIGNS.iter().zip(&mut all) {
        for ((name, content), row) in files.iter().zip(rows) {
            for (count, cell) in CONNECTIONS.iter().zip(&mut *row) {
                *cell = measure(&hostel, design, &disk, *count, name, content)
                    .with_context(|| format!("{design}, {name}, {count} connections"))?;
            }
            let cells = row.map(|cell| format!("{:.1}, {:.0}, {:.0}", cell.per_second, cell.median_ms, cell.most_ms));
            println!("| {design} | {name} | {} |", cells.join(" | "));
        }
    }
    let [single, workers, states] = all.map(|rows| rows[1].map(|cell| cell.per_second));
    let mut bounds = Bounds::default();
    bounds.at_least("from the disk, 8 at once: workers, to the single thread", workers[1] / single[1], 3.0, "");
    bounds.at_least("from the disk, 8 at once: states, to the single thread", states[1] / single[1], 3.0, "");
    bounds.at_least("from the disk, 64 at once: states, to 8 workers", states[2] / workers[2], 1.0, "");
    bounds.at_most("from the disk, single thread: 64 at once, to 1", single[2] / single[0], 1.5, "");
    fs::remove_dir_all(&directory)?;
    Ok(bounds.finish())
}

/// A machine whose server has an address.
fn start(hostel: &str, design: &str, disk: &str, port: u16) -> Result<Child> {
    let mut command = Command::new(hostel);
    command.args(["run", "--transport", "mmio", "--mem", "64M", "--timeout", "100s"]);
    command.args(["--net", &format!("user,forward={port}:80"), "--disk", &format!("{disk},ro,delay={DELAY}")]);
    command.args(["--", "server"]).args(design.split(' '));
    let mut machine = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = BufReader::new(machine.stdout.take().context("a pipe")?);
    // What it says is read to the end, so that it never waits for a reader.
    let mut lines = output.lines().map_while(|line| line.ok());
    let has_address = lines.any(|line| line.contains("server: address "));
    thread::spawn(move || lines.for_each(drop));
    if !has_address {
        machine.wait()?;
        return Err(anyhow!("the server does not start: is passt installed?"));
    }
    Ok(machine)
}

/// Runs so many clients for a while, each on a connection of its own.
fn measure(hostel: &str, design: &str, disk: &str, clients: usize, name: &str, content: &[u8]) -> Result<Figures> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut machine = start(hostel, design, disk, port)?;
    let server = format!("127.0.0.1:{port}");
    let barrier = Barrier::new(clients);
    let client = || -> client::Result<Vec<Duration>> {
        // What fails here must not leave the others waiting.
        let connection = Connection::open(&server);
        barrier.wait();
        let (mut connection, begin, mut times) = (connection?, Instant::now(), Vec::new());
        while begin.elapsed() < TIME {
            let asked = Instant::now();
            connection.ask(&format!("/{name}"))?;
            let answer = connection.answer(|_, _| {})?;
            times.push(asked.elapsed());
            if answer.status != 200 || answer.body != content {
                return Err("other bytes than the file's".into());
            }
        }
        Ok(times)
    };
    let begin = Instant::now();
    let results: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join()).collect()
    });
    let took = begin.elapsed().as_secs_f64();
    // The end of its input ends it.
    drop(machine.stdin.take());
    machine.wait()?;
    let mut times = Vec::new();
    for result in results {
        times.extend(result.map_err(|_| anyhow!("a client panicked"))?.map_err(|error| anyhow!("{error}"))?);
    }
    times.sort_unstable();
    ensure!(!times.is_empty(), "no answer");
    let ms = |at: usize| times[at].as_secs_f64() * 1e3;
    Ok(Figures { per_second: times.len() as f64 / took, median_ms: ms(times.len() / 2), most_ms: ms(times.len() - 1) })
}
