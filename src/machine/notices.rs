//! What the user is told of the guest while it runs, each thing once: a guest must not fill the host's log.

use crate::arch::msr;
use crate::bus::bus::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Told a sentence that the user should read; called on a vCPU's thread.
pub type Note = Box<dyn Fn(String) + Send + Sync>;

/// Most MSRs that are named: a guest may try them all.
const NAMED_MSRS_MAX: usize = 64;

/// What has been told.
pub struct Notices {
    note: Note,
    msrs: Mutex<Vec<u32>>,
    panic: AtomicBool,
}

impl Notices {
    /// Nothing told yet; `note` is told everything.
    pub fn new(note: Note) -> Notices {
        Notices { note, msrs: Mutex::new(Vec::new()), panic: AtomicBool::new(false) }
    }

    /// `instruction` reached for an MSR that KVM does not know.
    pub fn unknown_msr(&self, instruction: &str, index: u32) {
        let mut named = lock(&self.msrs);
        if named.len() < NAMED_MSRS_MAX && !named.contains(&index) {
            named.push(index);
            let known_as = msr::name(index).unwrap_or("no architectural name");
            (self.note)(format!(
                "{instruction} {index:#x} ({known_as}): KVM does not know this MSR, the guest gets #GP"
            ));
        }
    }

    /// The guest's kernel panicked, and the machine goes on because of `why`.
    pub fn panicked(&self, why: &str) {
        if !self.panic.swap(true, Ordering::Relaxed) {
            (self.note)(format!("the guest's kernel panicked; the machine goes on: {why}"));
        }
    }
}
