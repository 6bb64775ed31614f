//! The way to KVM: every ioctl of this room passes [`KvmFd::call`], where its failure gets a name and where it can be watched.
//!
//! The descriptors of `kvm-ioctls` are private to this file, so no call goes around it. What is mapped and not called,
//! `kvm_run`, is handed out as it is. `kvm-ioctls` makes one call more than it is asked for, KVM_GET_VCPU_MMAP_SIZE behind
//! KVM_CREATE_VM: it is told with that one.
//! Source: KVM API §1 (system, VM and vCPU ioctls).

use super::system::KvmError;
use kvm_bindings::{
    CpuId, kvm_fpu, kvm_mp_state, kvm_regs, kvm_run, kvm_sregs, kvm_sync_regs, kvm_vcpu_events, kvm_xsave,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};
use std::fmt::Arguments;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a call is made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/dev/kvm`.
    System,
    /// The machine.
    Machine,
    /// The vCPU of this number.
    Vcpu(u32),
}

/// A call that was made.
#[derive(Debug)]
pub struct Call<'a> {
    /// On what.
    pub target: Target,
    /// Its KVM name: "KVM_CREATE_VM".
    pub name: &'static str,
    /// Its arguments in words.
    pub arguments: Arguments<'a>,
    /// What it gave in words, or why it failed.
    pub result: io::Result<String>,
    /// How long it took.
    pub took: Duration,
}

/// Watches calls, from the threads that make them.
pub trait CallWatcher: Send + Sync {
    /// `call` has returned.
    fn called(&self, call: &Call);
}

/// Who watches, if anybody.
pub type Watch = Option<Arc<dyn CallWatcher>>;

/// A file descriptor of KVM.
pub(super) struct KvmFd<F> {
    fd: F,
    target: Target,
    watch: Watch,
}

impl KvmFd<Kvm> {
    /// Opens `/dev/kvm`, with `watch` on it and on all that is made of it.
    pub(super) fn open(watch: Watch) -> Result<KvmFd<Kvm>, KvmError> {
        let fd = observed(&watch, Target::System, "open", format_args!("/dev/kvm"), Kvm::new)?;
        Ok(KvmFd { fd, target: Target::System, watch })
    }
}

impl<F> KvmFd<F> {
    /// Makes a call, by its KVM name and with its arguments in words.
    #[inline]
    pub(super) fn call<T: Answer>(
        &self,
        name: &'static str,
        arguments: Arguments,
        call: impl FnOnce(&F) -> Result<T, kvm_ioctls::Error>,
    ) -> Result<T, KvmError> {
        observed(&self.watch, self.target, name, arguments, || call(&self.fd))
    }

    /// Makes a call that gives a descriptor of `target`, with the same watch on it.
    pub(super) fn create<G: Answer>(
        &self,
        target: Target,
        name: &'static str,
        arguments: Arguments,
        call: impl FnOnce(&F) -> Result<G, kvm_ioctls::Error>,
    ) -> Result<KvmFd<G>, KvmError> {
        let fd = self.call(name, arguments, call)?;
        Ok(KvmFd { fd, target, watch: self.watch.clone() })
    }
}

impl KvmFd<VcpuFd> {
    /// Enters the guest until its next exit, which [`KvmFd::area`] then tells.
    #[inline]
    pub(super) fn run(&mut self) -> Result<(), KvmError> {
        observed(&self.watch, self.target, "KVM_RUN", format_args!(""), || self.fd.run()).map(drop)
    }

    /// What this process and KVM share of the vCPU.
    pub(super) fn area(&mut self) -> &mut kvm_run {
        self.fd.get_kvm_run()
    }

    /// The registers in it.
    pub(super) fn synced(&self) -> kvm_sync_regs {
        self.fd.sync_regs()
    }

    /// Puts registers into it, which KVM takes at the next entry.
    pub(super) fn load(&mut self, regs: kvm_regs) {
        self.fd.sync_regs_mut().regs = regs;
        self.fd.set_sync_dirty_reg(SyncReg::Register);
    }
}

#[inline]
fn observed<T: Answer>(
    watch: &Watch,
    target: Target,
    name: &'static str,
    arguments: Arguments,
    call: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, KvmError> {
    let failed = |error: kvm_ioctls::Error| KvmError::Call {
        name,
        arguments: arguments.to_string(),
        source: io::Error::from_raw_os_error(error.errno()),
    };
    let Some(watcher) = watch else { return call().map_err(failed) };
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    let words = result.as_ref().map(Answer::in_words).map_err(|error| io::Error::from_raw_os_error(error.errno()));
    watcher.called(&Call { target, name, arguments, result: words, took });
    result.map_err(failed)
}

/// What a call gives.
pub(super) trait Answer {
    /// In words; nothing where there is nothing to say.
    fn in_words(&self) -> String;
}

impl Answer for () {
    fn in_words(&self) -> String {
        String::new()
    }
}

impl Answer for i32 {
    fn in_words(&self) -> String {
        self.to_string()
    }
}

impl Answer for usize {
    fn in_words(&self) -> String {
        self.to_string()
    }
}

impl Answer for Kvm {
    fn in_words(&self) -> String {
        format!("fd {}", self.as_raw_fd())
    }
}

impl Answer for VmFd {
    fn in_words(&self) -> String {
        format!("fd {}; then KVM_GET_VCPU_MMAP_SIZE: {}", self.as_raw_fd(), self.run_size())
    }
}

impl Answer for VcpuFd {
    fn in_words(&self) -> String {
        format!("fd {}, and its kvm_run is mapped", self.as_raw_fd())
    }
}

impl Answer for VcpuExit<'_> {
    fn in_words(&self) -> String {
        format!("{self:x?}")
    }
}

impl Answer for CpuId {
    fn in_words(&self) -> String {
        format!("{} leaves", self.as_slice().len())
    }
}

impl Answer for Vec<u64> {
    fn in_words(&self) -> String {
        format!("{} bits are set", self.iter().map(|word| word.count_ones()).sum::<u32>())
    }
}

impl Answer for kvm_regs {
    fn in_words(&self) -> String {
        format!("rip {:#x}, rsp {:#x}, rflags {:#x}", self.rip, self.rsp, self.rflags)
    }
}

impl Answer for kvm_sregs {
    fn in_words(&self) -> String {
        let (code, bits) = (self.cs.selector, if self.cs.l != 0 { 64 } else { 16 << self.cs.db.min(1) });
        format!("cr0 {:#x}, cr3 {:#x}, efer {:#x}, cs {code:#x} of {bits} bits", self.cr0, self.cr3, self.efer)
    }
}

impl Answer for kvm_fpu {
    fn in_words(&self) -> String {
        format!("fcw {:#x}, mxcsr {:#x}", self.fcw, self.mxcsr)
    }
}

impl Answer for kvm_xsave {
    fn in_words(&self) -> String {
        String::new()
    }
}

impl Answer for kvm_mp_state {
    fn in_words(&self) -> String {
        self.mp_state.to_string()
    }
}

impl Answer for kvm_vcpu_events {
    fn in_words(&self) -> String {
        format!("exception {}, NMI {}", self.exception.injected, self.nmi.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl CallWatcher for Log {
        fn called(&self, call: &Call) {
            let Call { target, name, arguments, result, .. } = call;
            self.0.lock().unwrap().push(format!("{target:?} {name} {arguments}: {result:?}"));
        }
    }

    #[test]
    fn a_call_is_told_with_its_arguments_and_what_came_of_it() {
        let log = Arc::new(Log::default());
        let fd = KvmFd { fd: 5, target: Target::System, watch: Some(log.clone()) };
        let made = fd.create(Target::Vcpu(1), "KVM_X", format_args!("of {}", 2), |fd| Ok(fd + 1)).unwrap();
        let refused = made.call("KVM_Y", format_args!("{}", 3), |fd| {
            assert_eq!(*fd, 6);
            Err::<(), _>(kvm_ioctls::Error::new(libc::EBUSY))
        });
        assert_eq!(refused.unwrap_err().to_string(), "KVM_Y 3: Device or resource busy (os error 16)");
        let log = log.0.lock().unwrap();
        assert_eq!(log[0], "System KVM_X of 2: Ok(\"6\")");
        assert!(log[1].starts_with("Vcpu(1) KVM_Y 3: Err(") && log[1].contains("16"), "{}", log[1]);
    }

    #[test]
    fn nobody_watching_changes_nothing() {
        let fd = KvmFd { fd: (), target: Target::Machine, watch: None };
        assert_eq!(fd.call("KVM_X", format_args!(""), |()| Ok(7)).unwrap(), 7);
    }
}
