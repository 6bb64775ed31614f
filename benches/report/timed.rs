//! Two Linux guests in the lab that take times themselves, Hostel's and QEMU's: both are there all the time, and one after the other does
//! what is measured, in short turns, so that what else the host does meets both.

use super::bounds::Bounds;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Times that each row is measured, and how long all of them may take: no pair of rounds, in which each begins once, begins after it.
const ROUNDS: usize = 6;
const ENOUGH: Duration = Duration::from_secs(240);
/// How often a daemon's socket is looked for, and how long.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS: usize = 500;

/// The end of the guest's script, which has a function for each row: it calls those that it is asked for, and says how long each took, in
/// the hundredths of a second of `/proc/uptime`, and what it printed.
pub const TOOK: &str = r#"
now() { read up rest </proc/uptime; echo ${up%.*}${up#*.}; }
took() { start=$(now); result=$($1); echo $1=$(($(now) - start)),$result; }
echo ready=0,0
while read name && [ "$name" != end ]; do took "$name"; done
"#;

/// What is done in turn: its name in the script, what that is, what it must have printed, and whether the times are compared.
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub result: usize,
    pub bound: Option<f64>,
}

/// Runs both, QEMU with its daemon, and holds the shortest times against each other.
pub fn compare(rows: &[Row], hostel: Command, daemon: Command, socket: &str, qemu: Command) -> Result<ExitCode> {
    let mut daemon = start(daemon, socket)?;
    let mut guests = [Guest::boot("Hostel", hostel)?, Guest::boot("QEMU", qemu)?];
    let mut shortest = vec![[f64::INFINITY; 2]; rows.len()];
    let begin = Instant::now();
    for round in 0..ROUNDS {
        if round % 2 == 0 && begin.elapsed() > ENOUGH {
            println!("{round} rounds are enough: this is a slow host");
            break;
        }
        for (row, shortest) in rows.iter().zip(&mut shortest) {
            // Who begins has the colder cache.
            for turn in 0..2 {
                let who = (round + turn) % 2;
                let guest = &mut guests[who];
                let seconds = guest.measure(row).with_context(|| guest.name)?;
                println!("round {round}, {}: {}, {seconds} s", guest.name, row.what);
                shortest[who] = shortest[who].min(seconds);
            }
        }
    }
    guests.into_iter().try_for_each(Guest::end)?;
    daemon.kill()?;
    daemon.wait()?;
    let mut bounds = Bounds::default();
    for (row, [hostel, qemu]) in rows.iter().zip(shortest) {
        if let Some(bound) = row.bound {
            bounds.at_most(&format!("{}, time to QEMU's", row.what), hostel / qemu, bound, "");
        }
    }
    Ok(bounds.finish())
}

fn start(mut daemon: Command, socket: &str) -> Result<Child> {
    let _ = std::fs::remove_file(socket);
    daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = daemon.spawn().with_context(|| format!("{daemon:?}"))?;
    (0..LOOKS).take_while(|_| !Path::new(socket).exists()).for_each(|_| thread::sleep(LOOK_EVERY));
    Ok(daemon)
}

/// A guest that waits to be asked.
struct Guest {
    name: &'static str,
    process: Child,
    console: BufReader<ChildStdout>,
}

impl Guest {
    fn boot(name: &'static str, mut command: Command) -> Result<Guest> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let console = BufReader::new(process.stdout.take().context("it was piped")?);
        let mut guest = Guest { name, process, console };
        guest.said("ready").context(name)?;
        println!("{name} is ready");
        Ok(guest)
    }

    fn ask(&mut self, line: &str) -> Result<()> {
        let input = self.process.stdin.as_mut().context("it was piped")?;
        Ok(writeln!(input, "{line}")?)
    }

    /// Seconds that a row took.
    fn measure(&mut self, row: &Row) -> Result<f64> {
        self.ask(row.name)?;
        let (hundredths, result) = self.said(row.name)?;
        ensure!(result == row.result, "{}: {result}, not {}", row.name, row.result);
        Ok(hundredths as f64 / 100.0)
    }

    /// Time and result in the line that begins with `name` and `=`.
    fn said(&mut self, name: &str) -> Result<(u64, usize)> {
        let mut seen = String::new();
        let mut line = String::new();
        while self.console.read_line(&mut line)? > 0 {
            let said = line.trim().strip_prefix(name).and_then(|rest| rest.strip_prefix('=')?.split_once(','));
            if let Some((hundredths, result)) = said {
                return Ok((hundredths.parse()?, result.parse().with_context(|| line.clone())?));
            }
            seen.push_str(&line);
            line.clear();
        }
        anyhow::bail!("the guest has ended and did not say {name}: {seen}")
    }

    fn end(mut self) -> Result<()> {
        self.ask("end")?;
        std::io::copy(&mut self.console, &mut std::io::sink())?;
        self.process.wait()?;
        Ok(())
    }
}
