//! A Linux guest in the lab that takes times itself, run by Hostel and by QEMU in turn.

use super::bounds::Bounds;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

/// Runs of each.
const ROUNDS: usize = 2;
/// How often a daemon's socket is looked for, and how long.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS: usize = 500;

/// Functions of the guest's script: `took NAME COMMAND` says how long a command took, in the hundredths of a second of `/proc/uptime`,
/// and what it printed.
pub const TOOK: &str = r#"
now() { read up rest </proc/uptime; echo ${up%.*}${up#*.}; }
took() { name=$1; start=$(now); result=$(sh -c "$2"); echo $name=$(($(now) - start)),$result; }
"#;

/// What is measured: its name in the script, what it is, what the command must have printed.
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub result: usize,
}

/// Runs both, QEMU with a daemon that is started anew each time, and holds the shortest times against each other: a bound of 1.
pub fn compare(
    rows: &[Row],
    hostel: impl Fn() -> Command,
    daemon: impl Fn() -> Command,
    socket: &str,
    qemu: impl Fn() -> Command,
) -> Result<ExitCode> {
    let mut shortest = [vec![f64::INFINITY; rows.len()], vec![f64::INFINITY; rows.len()]];
    for _ in 0..ROUNDS {
        let with_hostel = run(hostel(), rows).context("Hostel")?;
        let mut daemon = start(daemon(), socket)?;
        let with_qemu = run(qemu(), rows).context("QEMU");
        daemon.kill()?;
        daemon.wait()?;
        for (shortest, times) in shortest.iter_mut().zip([with_hostel, with_qemu?]) {
            shortest.iter_mut().zip(times).for_each(|(shortest, time)| *shortest = shortest.min(time));
        }
        println!("seconds so far: Hostel {:?}, QEMU {:?}", shortest[0], shortest[1]);
    }
    let mut bounds = Bounds::default();
    for (index, row) in rows.iter().enumerate() {
        bounds.at_most(&format!("{}, time to QEMU's", row.what), shortest[0][index] / shortest[1][index], 1.0, "");
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

/// Runs a guest to its end; the seconds that each row took.
fn run(mut command: Command, rows: &[Row]) -> Result<Vec<f64>> {
    let output = command.stdin(Stdio::null()).output()?;
    let console = String::from_utf8_lossy(&output.stdout);
    let seconds = |row: &Row| {
        let said = console.lines().find_map(|line| line.trim_end().strip_prefix(row.name)?.strip_prefix('='));
        let (hundredths, result) = said.and_then(|said| said.split_once(',')).with_context(|| format!("{output:?}"))?;
        ensure!(result == row.result.to_string(), "{}: {result}, not {}", row.name, row.result);
        Ok(hundredths.parse::<f64>()? / 100.0)
    };
    rows.iter().map(seconds).collect()
}
