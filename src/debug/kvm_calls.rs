//! The calls of KVM as lines of text, in their order: what a virtual machine is. `kvm/calls.rs` tells them.
//!
//! The first entry of each vCPU is shown with the exit that ended it; later ones are counted until another call comes
//! between. A line is written by the thread that called, after the call was timed.

use super::tracer::TraceClock;
use crate::kvm::calls::{Call, CallWatcher, Target};
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What stands above the columns.
const HEADER: &str = "  time ms on      call                               µs  arguments -> what came of it\n";

/// Shows calls.
pub struct KvmCalls {
    clock: TraceClock,
    lines: Mutex<Lines>,
}

struct Lines {
    out: Box<dyn Write + Send>,
    /// The first failure to write; nothing is written after it.
    failed: Option<io::Error>,
    /// vCPUs whose first entry was shown, and the entries since the last line.
    entered: Vec<u32>,
    entries: Option<Entries>,
}

/// Entries of one vCPU or several that are not shown yet.
struct Entries {
    on: String,
    at_ns: u64,
    count: u64,
    took: Duration,
}

impl KvmCalls {
    /// Shows calls on `out`, at their times on `clock`.
    pub fn new(clock: TraceClock, out: Box<dyn Write + Send>) -> KvmCalls {
        let mut lines = Lines { out, failed: None, entered: Vec::new(), entries: None };
        lines.write(HEADER);
        KvmCalls { clock, lines: Mutex::new(lines) }
    }

    /// Shows what was held back, when no vCPU runs any more.
    ///
    /// # Errors
    /// A line could not be written.
    pub fn finish(&self) -> io::Result<()> {
        let mut lines = self.lock();
        lines.end_entries();
        if let Err(error) = lines.out.flush() {
            lines.failed.get_or_insert(error);
        }
        lines.failed.take().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallWatcher for KvmCalls {
    fn called(&self, call: &Call) {
        let at_ns = self.clock.now_ns().saturating_sub(call.took.as_nanos() as u64);
        self.lock().take(at_ns, call);
    }
}

impl Lines {
    fn take(&mut self, at_ns: u64, call: &Call) {
        let on = match call.target {
            Target::System => "kvm".to_owned(),
            Target::Machine => "vm".to_owned(),
            Target::Vcpu(id) => format!("vcpu{id}"),
        };
        if let Target::Vcpu(id) = call.target
            && call.name == "KVM_RUN"
        {
            if self.entered.contains(&id) {
                return self.count_entry(on, at_ns, call.took);
            }
            self.entered.push(id);
        }
        self.end_entries();
        let came = match &call.result {
            Ok(words) if words.is_empty() => String::new(),
            Ok(words) => format!(" -> {words}"),
            Err(error) => format!(" -> failed: {error}"),
        };
        self.write(&line(at_ns, &on, call.name, call.took, &format!("{}{came}", call.arguments)));
    }

    fn count_entry(&mut self, on: String, at_ns: u64, took: Duration) {
        let entries = self.entries.get_or_insert(Entries { on: on.clone(), at_ns, count: 0, took: Duration::ZERO });
        if entries.on != on {
            entries.on = "vcpus".into();
        }
        entries.count += 1;
        entries.took += took;
    }

    fn end_entries(&mut self) {
        if let Some(Entries { on, at_ns, count, took }) = self.entries.take() {
            self.write(&line(at_ns, &on, &format!("KVM_RUN x {count}"), took, "in all"));
        }
    }

    fn write(&mut self, line: &str) {
        if self.failed.is_none() {
            self.failed = self.out.write_all(line.as_bytes()).err();
        }
    }
}

fn line(at_ns: u64, on: &str, name: &str, took: Duration, words: &str) -> String {
    let (at_ms, took_us) = (at_ns as f64 / 1e6, took.as_nanos() as f64 / 1e3);
    format!("{at_ms:9.3} {on:7} {name:26} {took_us:10.1}  {}", words.trim_start()).trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Written;
    use super::*;

    fn call(lines: &mut Lines, target: Target, name: &'static str, result: io::Result<&str>) {
        let result = result.map(str::to_owned);
        lines.take(
            1_500_000,
            &Call { target, name, arguments: format_args!("why"), result, took: Duration::from_micros(7) },
        );
    }

    #[test]
    fn entries_are_folded_between_other_calls_and_failures_are_told() {
        let written = Written::default();
        let calls = KvmCalls::new(TraceClock::starting_at(0), Box::new(written.clone()));
        let lines = &mut *calls.lines.lock().unwrap();
        call(lines, Target::System, "KVM_CREATE_VM", Ok("fd 7"));
        for _ in 0..4 {
            call(lines, Target::Vcpu(0), "KVM_RUN", Ok("Hlt"));
        }
        call(lines, Target::Vcpu(1), "KVM_RUN", Ok("Hlt"));
        call(lines, Target::Vcpu(0), "KVM_RUN", Ok("Hlt"));
        call(lines, Target::Vcpu(1), "KVM_RUN", Ok("Hlt"));
        call(lines, Target::Machine, "KVM_SIGNAL_MSI", Err(io::Error::from_raw_os_error(libc::EINVAL)));
        lines.end_entries();
        let expected = [
            "    1.500 kvm     KVM_CREATE_VM                     7.0  why -> fd 7",
            "    1.500 vcpu0   KVM_RUN                           7.0  why -> Hlt",
            "    1.500 vcpu0   KVM_RUN x 3                      21.0  in all",
            "    1.500 vcpu1   KVM_RUN                           7.0  why -> Hlt",
            "    1.500 vcpus   KVM_RUN x 2                      14.0  in all",
            "    1.500 vm      KVM_SIGNAL_MSI                    7.0  why -> failed: Invalid argument (os error 22)",
        ];
        let text = written.text();
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), expected);
    }

    /// A disk that is full.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_told_at_the_end() {
        let calls = KvmCalls::new(TraceClock::starting_at(0), Box::new(Full));
        assert_eq!(calls.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
