//! Names of model-specific registers, for messages and for the user's words.
//!
//! Only registers that a guest is likely to touch and a reader to look up; others have no name here.
//!
//! Sources: Intel SDM vol. 4 §2.1 (architectural), §2.17 (platform); AMD APM vol. 2 §A.1; Linux
//! Documentation/virt/kvm/x86/msr.rst (0x4b56_4d00 and up).

use std::ops::RangeInclusive;

/// Name of register `index` in its manual.
pub const fn name(index: u32) -> Option<&'static str> {
    Some(match index {
        0x10 => "IA32_TIME_STAMP_COUNTER",
        0x17 => "IA32_PLATFORM_ID",
        0x1b => "IA32_APIC_BASE",
        0x34 => "MSR_SMI_COUNT",
        0x35 => "MSR_CORE_THREAD_COUNT",
        0x3a => "IA32_FEATURE_CONTROL",
        0x3b => "IA32_TSC_ADJUST",
        0x48 => "IA32_SPEC_CTRL",
        0x49 => "IA32_PRED_CMD",
        0x79 => "IA32_BIOS_UPDT_TRIG",
        0x8b => "IA32_BIOS_SIGN_ID",
        0xc1..=0xc8 => "IA32_PMCx",
        0xce => "MSR_PLATFORM_INFO",
        0xe1 => "IA32_UMWAIT_CONTROL",
        0xe2 => "MSR_PKG_CST_CONFIG_CONTROL",
        0xe7 => "IA32_MPERF",
        0xe8 => "IA32_APERF",
        0xfe => "IA32_MTRRCAP",
        0x10a => "IA32_ARCH_CAPABILITIES",
        0x10b => "IA32_FLUSH_CMD",
        0x122 => "IA32_TSX_CTRL",
        0x140 => "MSR_MISC_FEATURES_ENABLES",
        0x174 => "IA32_SYSENTER_CS",
        0x175 => "IA32_SYSENTER_ESP",
        0x176 => "IA32_SYSENTER_EIP",
        0x179 => "IA32_MCG_CAP",
        0x17a => "IA32_MCG_STATUS",
        0x17b => "IA32_MCG_CTL",
        0x186..=0x18d => "IA32_PERFEVTSELx",
        0x198 => "IA32_PERF_STATUS",
        0x199 => "IA32_PERF_CTL",
        0x19a => "IA32_CLOCK_MODULATION",
        0x19b => "IA32_THERM_INTERRUPT",
        0x19c => "IA32_THERM_STATUS",
        0x1a0 => "IA32_MISC_ENABLE",
        0x1a2 => "MSR_TEMPERATURE_TARGET",
        0x1ad => "MSR_TURBO_RATIO_LIMIT",
        0x1b0 => "IA32_ENERGY_PERF_BIAS",
        0x1d9 => "IA32_DEBUGCTL",
        0x200..=0x20f => "IA32_MTRR_PHYSBASEx/MASKx",
        0x250 | 0x258 | 0x259 | 0x268..=0x26f => "IA32_MTRR_FIXx",
        0x277 => "IA32_PAT",
        0x2ff => "IA32_MTRR_DEF_TYPE",
        0x309..=0x30c => "IA32_FIXED_CTRx",
        0x345 => "IA32_PERF_CAPABILITIES",
        0x38d => "IA32_FIXED_CTR_CTRL",
        0x38e => "IA32_PERF_GLOBAL_STATUS",
        0x38f => "IA32_PERF_GLOBAL_CTRL",
        0x390 => "IA32_PERF_GLOBAL_OVF_CTRL",
        0x3f1 => "IA32_PEBS_ENABLE",
        0x400..=0x47f => "IA32_MCx",
        0x480..=0x493 => "IA32_VMX_x",
        0x600 => "IA32_DS_AREA",
        0x606 => "MSR_RAPL_POWER_UNIT",
        0x611 => "MSR_PKG_ENERGY_STATUS",
        0x619 => "MSR_DRAM_ENERGY_STATUS",
        0x639 => "MSR_PP0_ENERGY_STATUS",
        0x6a0 => "IA32_U_CET",
        0x6a2 => "IA32_S_CET",
        0x6e0 => "IA32_TSC_DEADLINE",
        0x770 => "IA32_PM_ENABLE",
        0x771 => "IA32_HWP_CAPABILITIES",
        0x774 => "IA32_HWP_REQUEST",
        0x800..=0x8ff => "IA32_X2APIC_x",
        0xda0 => "IA32_XSS",
        0x4b56_4d00 => "MSR_KVM_WALL_CLOCK_NEW",
        0x4b56_4d01 => "MSR_KVM_SYSTEM_TIME_NEW",
        0x4b56_4d02 => "MSR_KVM_ASYNC_PF_EN",
        0x4b56_4d03 => "MSR_KVM_STEAL_TIME",
        0x4b56_4d04 => "MSR_KVM_PV_EOI_EN",
        0x4b56_4d05 => "MSR_KVM_POLL_CONTROL",
        0x4b56_4d06 => "MSR_KVM_ASYNC_PF_INT",
        0x4b56_4d07 => "MSR_KVM_ASYNC_PF_ACK",
        0x4b56_4d08 => "MSR_KVM_MIGRATION_CONTROL",
        0xc000_0080 => "IA32_EFER",
        0xc000_0081 => "IA32_STAR",
        0xc000_0082 => "IA32_LSTAR",
        0xc000_0083 => "IA32_CSTAR",
        0xc000_0084 => "IA32_FMASK",
        0xc000_0100 => "IA32_FS_BASE",
        0xc000_0101 => "IA32_GS_BASE",
        0xc000_0102 => "IA32_KERNEL_GS_BASE",
        0xc000_0103 => "IA32_TSC_AUX",
        0xc000_0104 => "AMD TSC_RATIO",
        0xc000_2000..=0xc000_2fff => "AMD MCAX_x",
        0xc001_0000..=0xc001_0003 => "AMD PERF_CTLx",
        0xc001_0004..=0xc001_0007 => "AMD PERF_CTRx",
        0xc001_0010 => "AMD SYS_CFG",
        0xc001_0015 => "AMD HWCR",
        0xc001_001a => "AMD TOP_MEM",
        0xc001_001d => "AMD TOP_MEM2",
        0xc001_001f => "AMD NB_CFG",
        0xc001_0055 => "AMD INT_PENDING_MSG",
        0xc001_0058 => "AMD MMIO_CFG_BASE",
        0xc001_0061..=0xc001_0063 => "AMD PSTATE_x",
        0xc001_0064..=0xc001_006b => "AMD PSTATE_DEFx",
        0xc001_0114 => "AMD VM_CR",
        0xc001_0117 => "AMD VM_HSAVE_PA",
        0xc001_011e => "AMD VIRT_SPEC_CTRL",
        0xc001_0130 => "AMD SEV_ES_GHCB",
        0xc001_0131 => "AMD SEV_STATUS",
        0xc001_0140 => "AMD OSVW_ID_LENGTH",
        0xc001_0141 => "AMD OSVW_STATUS",
        0xc001_0200..=0xc001_020b => "AMD PERF_CTLx/CTRx",
        0xc001_0299 => "AMD RAPL_PWR_UNIT",
        0xc001_029a => "AMD CORE_ENERGY_STAT",
        0xc001_1020 => "AMD LS_CFG",
        0xc001_1022 => "AMD DC_CFG",
        0xc001_1023 => "AMD BU_CFG",
        0xc001_1029 => "AMD DE_CFG",
        _ => return None,
    })
}

/// Where the registers lie that have names here.
const NAMED: [RangeInclusive<u32>; 4] =
    [0..=0x1fff, 0x4b56_4d00..=0x4b56_4dff, 0xc000_0000..=0xc000_2fff, 0xc001_0000..=0xc001_1fff];

/// The registers that a user means by `word`: a name, in any case, with or without what stands before it (EFER for
/// IA32_EFER). Ascending.
pub fn numbers(word: &str) -> Vec<RangeInclusive<u32>> {
    let short = |name: &'static str| ["IA32_", "MSR_", "AMD "].iter().find_map(|start| name.strip_prefix(start));
    let meant = |name: &'static str| {
        name.eq_ignore_ascii_case(word) || short(name).is_some_and(|short| short.eq_ignore_ascii_case(word))
    };
    let mut found: Vec<RangeInclusive<u32>> = Vec::new();
    for index in NAMED.into_iter().flatten().filter(|index| name(*index).is_some_and(meant)) {
        match found.last_mut() {
            Some(range) if *range.end() + 1 == index => *range = *range.start()..=index,
            _ => found.push(index..=index),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{name, numbers};

    #[test]
    fn known_registers_have_names() {
        assert_eq!(name(0x1b), Some("IA32_APIC_BASE"));
        assert_eq!(name(0xc000_0080), Some("IA32_EFER"));
        assert_eq!(name(0x80b), Some("IA32_X2APIC_x"));
        assert_eq!(name(0xdead_beef), None);
    }

    #[test]
    fn names_lead_back_to_registers() {
        assert_eq!(numbers("IA32_EFER"), [0xc000_0080..=0xc000_0080]);
        assert_eq!(numbers("hwcr"), [0xc001_0015..=0xc001_0015]);
        assert_eq!(numbers("IA32_MTRR_FIXx"), [0x250..=0x250, 0x258..=0x259, 0x268..=0x26f]);
        assert_eq!(numbers("KVM_SYSTEM_TIME_NEW"), [0x4b56_4d01..=0x4b56_4d01]);
        assert_eq!(numbers(""), []);
    }
}
