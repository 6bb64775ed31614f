//! Bounds on measured values: each is printed with the value, and one that is exceeded makes the bench fail.

use std::process::ExitCode;

/// The bounds of one bench.
#[derive(Default)]
pub struct Bounds {
    checked: usize,
    exceeded: Vec<String>,
}

impl Bounds {
    /// States that `value` is at most `limit`, both in `unit`.
    #[allow(dead_code, reason = "one bench has only lower bounds")]
    pub fn at_most(&mut self, name: &str, value: f64, limit: f64, unit: &str) {
        self.check(value <= limit, format!("{name}: {value:.2}{unit}, bound {limit:.2}{unit}"));
    }

    /// States that `value` is at least `limit`, both in `unit`.
    #[allow(dead_code, reason = "most bounds are upper ones")]
    pub fn at_least(&mut self, name: &str, value: f64, limit: f64, unit: &str) {
        self.check(value >= limit, format!("{name}: {value:.2}{unit}, at least {limit:.2}{unit}"));
    }

    fn check(&mut self, holds: bool, line: String) {
        self.checked += 1;
        println!("  {} {line}", if holds { "ok      " } else { "EXCEEDED" });
        if !holds {
            self.exceeded.push(line);
        }
    }

    /// Sums up; the process fails if a bound was exceeded.
    pub fn finish(self) -> ExitCode {
        println!("{} bounds checked, {} exceeded", self.checked, self.exceeded.len());
        for line in &self.exceeded {
            eprintln!("exceeded: {line}");
        }
        if self.exceeded.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
