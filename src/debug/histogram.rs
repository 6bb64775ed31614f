//! Durations counted in steps of a sixteenth: percentiles of any number of exits in memory that does not grow.

/// Steps of an octave.
const STEPS: u32 = 16;
/// Shorter durations have a counter each; of longer ones the first five bits choose it.
const COUNTERS: usize = ((u64::BITS - STEPS.ilog2() + 1) * STEPS) as usize;

/// Counts durations.
#[derive(Clone, Debug)]
pub struct Histogram {
    counters: Box<[u64; COUNTERS]>,
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counters: Box::new([0; COUNTERS]), count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, ns: u64) {
        self.counters[counter(ns)] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All of them together.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The longest, exactly; 0 where there is none.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The duration that `percent` of 100 do not exceed, to a 32nd of it; 0 where there is none.
    pub fn percentile_ns(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        let found = self.counters.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        middle(found.unwrap_or(0)).min(self.max_ns)
    }
}

fn counter(ns: u64) -> usize {
    if ns < u64::from(STEPS) {
        return ns as usize;
    }
    let shift = ns.ilog2() - STEPS.ilog2();
    (shift * STEPS) as usize + (ns >> shift) as usize
}

/// The middle of what `counter` counts.
fn middle(counter: usize) -> u64 {
    let steps = STEPS as usize;
    if counter < 2 * steps {
        return counter as u64;
    }
    let shift = counter / steps - 1;
    let first = ((counter % steps + steps) as u64) << shift;
    first + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_known_to_a_32nd() {
        for ns in (0..1000).chain([65_535, 65_536, 1_000_003, u64::MAX / 3, u64::MAX]) {
            let mut histogram = Histogram::default();
            histogram.add(ns);
            histogram.add(u64::MAX);
            let p50 = histogram.percentile_ns(50);
            assert!(p50.abs_diff(ns) <= ns / 32, "{ns} {p50}");
            assert_eq!(histogram.max_ns(), u64::MAX);
        }
    }

    #[test]
    fn percentiles_split_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.percentile_ns(50), histogram.max_ns()), (0, 0));
        for ns in 1..=16 {
            histogram.add(ns);
        }
        assert_eq!([0, 50, 99, 100].map(|percent| histogram.percentile_ns(percent)), [0, 8, 16, 16]);
        assert_eq!((histogram.count(), histogram.sum_ns()), (16, 136));
    }
}
