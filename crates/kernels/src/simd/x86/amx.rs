//! Whether tile registers may be used.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::LazyLock;

/// Whether the processor has tile registers that multiply bf16 and bytes, and the operating system lets
/// this process use them, for which it is asked once.
pub(in super::super) fn has_amx() -> bool {
    static HAS_AMX: LazyLock<bool> = LazyLock::new(|| has_instructions() && may_use_registers());
    *HAS_AMX
}

fn has_instructions() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const ALL: u32 = BF16 | TILE | INT8;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & ALL == ALL
}

/// Their 8 KiB are saved only for processes that have asked (Linux, Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn may_use_registers() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and no memory.
    let result =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA) };
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn may_use_registers() -> bool {
    false
}
