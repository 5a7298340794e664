//! In a process of its own: what ops are computed with is said once.

use kernels::{CpuIsa, instructions, limit_instructions};

#[test]
fn the_first_limit_holds() {
    assert_eq!(limit_instructions(CpuIsa::Portable), Ok(()));
    assert_eq!(instructions(), "portable instructions");
    assert_eq!(limit_instructions(CpuIsa::Portable), Ok(()), "said again");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        assert_eq!(limit_instructions(CpuIsa::Amx), Err("portable instructions"));
    }
}
