//! Page frames: which of them are free, and how many mappings share one.
//!
//! A free frame is given back to the host at once. That makes it zero when it is used again, and has KVM forget every translation that
//! led to it, on all vCPUs, so nothing else needs to be flushed when a mapping goes.
//! Sources: madvise(2) MADV_DONTNEED; Linux `virt/kvm/kvm_main.c` (MMU notifiers).

use crate::arch::layout::PAGE_SIZE;
use crate::bus::bus::lock;
use crate::memory::map::{GuestRange, MemoryMap};
use crate::memory::ram::GuestRam;
use std::sync::{Arc, Mutex};

/// The frames of a machine.
pub struct Frames {
    ram: Arc<GuestRam>,
    ranges: Vec<GuestRange>,
    state: Mutex<State>,
}

struct State {
    /// Range and address of the frame that was never used and is next.
    fresh: (usize, u64),
    /// Frames that were used and are free.
    free: Vec<u64>,
    /// Users of each frame, by number: at most as many as there are mappings in all address spaces, of which each thread may have one.
    users: Vec<u32>,
    in_use: u64,
}

impl Frames {
    /// All of `ram`, which is laid out as `map` says, is free.
    pub fn new(ram: Arc<GuestRam>, map: &MemoryMap) -> Frames {
        let ranges = map.ram().to_vec();
        let frames = ranges.last().map_or(0, |range| range.end() / PAGE_SIZE);
        let users = vec![0; frames as usize];
        let state = State { fresh: (0, ranges[0].start), free: Vec::new(), users, in_use: 0 };
        Frames { ram, ranges, state: Mutex::new(state) }
    }

    /// Where the frames lie.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Frames in use, and frames in all.
    pub fn count(&self) -> (u64, u64) {
        let total = self.ranges.iter().map(|range| range.size / PAGE_SIZE).sum();
        (lock(&self.state).in_use, total)
    }

    /// A frame of zeros with one user; `None` when all are in use.
    pub fn allocate(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        let gpa = match state.free.pop() {
            Some(gpa) => gpa,
            None => state.fresh(&self.ranges)?,
        };
        state.users[(gpa / PAGE_SIZE) as usize] = 1;
        state.in_use += 1;
        Some(gpa)
    }

    /// A frame gets one user more.
    pub fn share(&self, gpa: u64) {
        let mut state = lock(&self.state);
        let users = &mut state.users[(gpa / PAGE_SIZE) as usize];
        *users = users.checked_add(1).expect("the mappings of 64 address spaces are fewer");
    }

    /// Whether a frame has more users than one.
    pub fn is_shared(&self, gpa: u64) -> bool {
        lock(&self.state).users[(gpa / PAGE_SIZE) as usize] > 1
    }

    /// Each of these frames loses a user; what has none left is free. Where others stay, KVM forgets the translations all the same.
    pub fn release(&self, mut frames: Vec<u64>) {
        frames.sort_unstable();
        let mut state = lock(&self.state);
        let (mut free, mut kept) = (Vec::new(), Vec::new());
        for gpa in frames {
            let users = &mut state.users[(gpa / PAGE_SIZE) as usize];
            *users -= 1;
            if *users == 0 { free.push(gpa) } else { kept.push(gpa) }
        }
        for range in runs(&free) {
            self.ram.give_back(range).expect("a frame is RAM");
        }
        state.in_use -= free.len() as u64;
        // The lowest goes out first, so that what is mapped together lies together.
        state.free.extend(free.into_iter().rev());
        drop(state);
        self.revoke(&kept);
    }

    /// Has KVM forget how it translates these frames, sorted.
    pub fn revoke(&self, frames: &[u64]) {
        /// Beyond so many pieces one change of all memory is cheaper.
        const PIECES_MAX: usize = 64;
        let mut ranges = runs(frames);
        if ranges.len() > PIECES_MAX {
            ranges = self.ranges.clone();
        }
        for range in ranges {
            self.ram.revoke(range).expect("the host lets a process change its own mappings' rights");
        }
    }
}

impl State {
    fn fresh(&mut self, ranges: &[GuestRange]) -> Option<u64> {
        let (index, gpa) = self.fresh;
        let range = ranges.get(index)?;
        let next = gpa + PAGE_SIZE;
        self.fresh = match ranges.get(index + 1) {
            Some(above) if next == range.end() => (index + 1, above.start),
            None if next == range.end() => (index + 1, 0),
            _ => (index, next),
        };
        Some(gpa)
    }
}

/// Sorted frames as ranges.
fn runs(frames: &[u64]) -> Vec<GuestRange> {
    let mut runs: Vec<GuestRange> = Vec::new();
    for gpa in frames {
        match runs.last_mut() {
            Some(run) if run.end() == *gpa => run.size += PAGE_SIZE,
            _ => runs.push(GuestRange { start: *gpa, size: PAGE_SIZE }),
        }
    }
    runs
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::arch::layout::MIB;

    /// Frames of a machine with `size` bytes.
    pub fn frames(size: u64) -> Arc<Frames> {
        let map = MemoryMap::new(size).unwrap();
        Arc::new(Frames::new(Arc::new(GuestRam::new(&map).unwrap()), &map))
    }

    #[test]
    fn a_frame_is_free_when_its_last_user_leaves_and_zero_when_it_comes_back() {
        let frames = frames(MIB);
        let (first, second) = (frames.allocate().unwrap(), frames.allocate().unwrap());
        frames.ram().write(first, &[1; 8]).unwrap();
        frames.share(first);
        frames.release(vec![second, first]);
        assert!(!frames.is_shared(first));
        assert_eq!(frames.ram().read_u64(first), Some(0x0101_0101_0101_0101));
        assert_eq!(frames.allocate(), Some(second));
        frames.release(vec![first]);
        assert_eq!(frames.allocate(), Some(first));
        assert_eq!(frames.ram().read_u64(first), Some(0));
        assert_eq!(frames.count(), (2, 256));
    }

    #[test]
    fn all_frames_go_out_once() {
        let frames = frames(MIB);
        let all: std::collections::BTreeSet<u64> = std::iter::from_fn(|| frames.allocate()).collect();
        assert_eq!((all.len(), frames.allocate()), (256, None));
    }
}
