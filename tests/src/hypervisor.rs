//! Which hypervisor the suites run on: the same cases for each of them.

use std::path::PathBuf;

use husk::hypervisor::Choice;

/// `auto`, `kvm` or `qemu`.
const VARIABLE: &str = "HUSK_TEST_HYPERVISOR";
/// For the environment of programs that use no vector registers: a kernel on emulating KVM does not
/// keep those for them, since it has no XSAVE there, and programs still see that the processor has.
pub const NARROW: &str = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,\
                          -AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

/// What `HUSK_TEST_HYPERVISOR` says, or what husk chooses.
///
/// # Panics
/// When it says something else.
#[must_use]
pub fn under_test() -> Choice {
    match std::env::var(VARIABLE) {
        Ok(word) => word.parse().unwrap_or_else(|error| panic!("{VARIABLE}: {error}")),
        Err(_) => Choice::Auto,
    }
}

/// A kernel for the built-in VMM in place of the product's: `HUSK_TEST_KERNEL`. For machines whose
/// KVM cannot run the product's.
#[must_use]
pub fn test_kernel() -> Option<PathBuf> {
    std::env::var_os("HUSK_TEST_KERNEL").filter(|path| !path.is_empty()).map(PathBuf::from)
}
