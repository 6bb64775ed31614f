//! A vCPU without KVM: it "runs" into the exits of a list. For tests and for measuring the loop itself.

use super::cpu::{Cpu, CpuError};
use crate::arch::cpu_state::CpuState;
use crate::arch::fpu::FpuState;
use crate::kvm::debug::GuestDebug;
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::system::KvmError;
use crate::kvm::vcpu::{Activity, Synced};

/// A vCPU that runs into given exits and remembers the replies. After the last exit it is interrupted for ever.
#[derive(Debug, Default)]
pub struct ScriptedCpu {
    exits: Vec<Exit>,
    next: usize,
    replies: Vec<Reply>,
    state: CpuState,
    fpu: FpuState,
    debug: GuestDebug,
    synced: Synced,
    msr: Option<(u32, u64)>,
}

impl ScriptedCpu {
    /// A vCPU that will run into `exits`.
    pub fn new(exits: Vec<Exit>) -> ScriptedCpu {
        ScriptedCpu { replies: Vec::with_capacity(exits.len() + 1), exits, ..ScriptedCpu::default() }
    }

    /// The same vCPU with these registers, at each exit.
    pub fn in_state(self, state: CpuState) -> ScriptedCpu {
        ScriptedCpu { state, ..self }
    }

    /// The same vCPU with one model-specific register: its number and value.
    pub fn with_msr(self, index: u32, value: u64) -> ScriptedCpu {
        ScriptedCpu { msr: Some((index, value)), ..self }
    }

    /// What was asked for of its execution.
    pub fn debugged(&self) -> GuestDebug {
        self.debug
    }

    /// What each entry was given.
    pub fn replies(&self) -> &[Reply] {
        &self.replies
    }
}

impl Cpu for ScriptedCpu {
    fn id(&self) -> u32 {
        0
    }

    fn bind_to_thread(&mut self) {}

    fn run(&mut self, reply: Reply) -> Result<Exit, CpuError> {
        let Some(exit) = self.exits.get(self.next) else { return Ok(Exit::Interrupted) };
        self.replies.push(reply);
        self.next += 1;
        Ok(*exit)
    }

    fn complete(&mut self, _reply: Reply) -> Result<Option<Exit>, CpuError> {
        Ok(None)
    }

    fn state(&self) -> Result<CpuState, CpuError> {
        Ok(self.state)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), CpuError> {
        self.state = *state;
        Ok(())
    }

    fn fpu(&self) -> Result<FpuState, CpuError> {
        Ok(self.fpu)
    }

    fn set_fpu(&mut self, state: &FpuState) -> Result<(), CpuError> {
        self.fpu = *state;
        Ok(())
    }

    fn debug(&mut self, wanted: &GuestDebug) -> Result<(), CpuError> {
        self.debug = *wanted;
        Ok(())
    }

    fn drop_exception(&mut self) -> Result<(), CpuError> {
        Ok(())
    }

    fn sync(&mut self, registers: Synced) {
        self.synced = self.synced.max(registers);
    }

    fn synced_rip(&self) -> Option<u64> {
        (self.synced != Synced::Nothing).then_some(self.state.regs.rip)
    }

    fn synced_state(&self) -> Option<CpuState> {
        (self.synced == Synced::All).then_some(self.state)
    }

    fn msr(&self, index: u32) -> Result<u64, CpuError> {
        self.msr.filter(|(known, _)| *known == index).map(|(_, value)| value).ok_or_else(no_such_msr)
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), CpuError> {
        let known = self.msr.as_mut().filter(|(known, _)| *known == index);
        known.map(|(_, current)| *current = value).ok_or_else(no_such_msr)
    }

    fn activity(&self) -> Result<Activity, CpuError> {
        Ok(Activity::Alive)
    }

    fn inject_nmi(&mut self) -> Result<(), CpuError> {
        Ok(())
    }
}

fn no_such_msr() -> CpuError {
    let source = std::io::Error::from_raw_os_error(libc::EINVAL);
    CpuError { vcpu: 0, source: KvmError::Call { name: "MSR", arguments: String::new(), source } }
}
