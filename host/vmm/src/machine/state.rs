//! What a virtual CPU is like before its first instruction.

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::MachineError;

/// IA32_MISC_ENABLE. Intel SDM 4, table 2-2.
const MSR_MISC_ENABLE: u32 = 0x1a0;
/// Its bit for fast string instructions.
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE. Intel SDM 3A §12.11.2.1.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// The ranges are in force, and what none covers is write-back.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// HWCR of AMD, and its bit that says that the time stamp counter counts as fast as the processor
/// is said to be. AMD PPR, MSRC001_0015.
const MSR_HWCR: u32 = 0xc001_0015;
const TSC_FREQ_SEL: u64 = 1 << 24;

/// Local vector table, LINT0 and LINT1, as offsets. Intel SDM 3A, table 11-1.
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
/// The delivery mode in a vector's entry. Intel SDM 3A, figure 11-8.
const MODE_MASK: u32 = 0x700;
/// Interrupts come from the 8259, which gives the vector.
const MODE_EXTINT: u32 = 0x700;
const MODE_NMI: u32 = 0x400;
const MASKED: u32 = 1 << 16;

/// The x87 control word after FINIT, and MXCSR after a reset. Intel SDM 1 §8.1.5, §10.2.3.
const FCW: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// Makes the first processor ready for a kernel; `entry` says where that begins.
pub(super) fn set_first(
    vcpu: &VcpuFd,
    entry: impl FnOnce(&mut kvm_regs, &mut kvm_sregs),
) -> Result<(), MachineError> {
    let mut regs = vcpu.get_regs().map_err(MachineError::kvm("KVM_GET_REGS"))?;
    let mut sregs = vcpu.get_sregs().map_err(MachineError::kvm("KVM_GET_SREGS"))?;
    entry(&mut regs, &mut sregs);
    vcpu.set_sregs(&sregs).map_err(MachineError::kvm("KVM_SET_SREGS"))?;
    vcpu.set_regs(&regs).map_err(MachineError::kvm("KVM_SET_REGS"))?;
    let fpu = kvm_fpu { fcw: FCW, mxcsr: MXCSR, ..kvm_fpu::default() };
    vcpu.set_fpu(&fpu).map_err(MachineError::kvm("KVM_SET_FPU"))?;
    // MultiProcessor Specification 1.4 §3.6.2.1, virtual wire mode: before the I/O APIC is set up,
    // interrupts come over LINT0. The other processors get theirs from the kernel.
    let mut lapic = vcpu.get_lapic().map_err(MachineError::kvm("KVM_GET_LAPIC"))?;
    set_mode(&mut lapic, LINT0, MODE_EXTINT);
    set_mode(&mut lapic, LINT1, MODE_NMI);
    vcpu.set_lapic(&lapic).map_err(MachineError::kvm("KVM_SET_LAPIC"))
}

/// What firmware leaves in the model-specific registers of every processor. A KVM that knows one of
/// them not does without: the guest then only runs slower.
pub(super) fn set_msrs(vcpu: &VcpuFd, is_amd: bool) {
    add_bits(vcpu, MSR_MISC_ENABLE, FAST_STRINGS);
    if is_amd {
        add_bits(vcpu, MSR_HWCR, TSC_FREQ_SEL);
    }
    write_msr(vcpu, MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK);
}

fn add_bits(vcpu: &VcpuFd, index: u32, bits: u64) {
    if let Some(value) = read_msr(vcpu, index).filter(|value| value & bits != bits) {
        write_msr(vcpu, index, value | bits);
    }
}

fn msr(index: u32, data: u64) -> Option<Msrs> {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..kvm_msr_entry::default() }]).ok()
}

fn read_msr(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut msrs = msr(index, 0)?;
    let count = vcpu.get_msrs(&mut msrs).ok()?;
    msrs.as_slice().get(..count)?.first().map(|entry| entry.data)
}

fn write_msr(vcpu: &VcpuFd, index: u32, value: u64) {
    let _ = msr(index, value).map(|msrs| vcpu.set_msrs(&msrs));
}

fn set_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let Some(place) = lapic.regs.get_mut(register..register + 4) else { return };
    let mut bytes = [0; 4];
    for (byte, from) in bytes.iter_mut().zip(place.iter()) {
        [*byte] = from.to_ne_bytes();
    }
    let value = u32::from_le_bytes(bytes) & !(MODE_MASK | MASKED) | mode;
    for (to, byte) in place.iter_mut().zip(value.to_le_bytes()) {
        *to = std::ffi::c_char::from_ne_bytes([byte]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_gets_its_mode_and_keeps_the_rest() {
        let mut lapic = kvm_lapic_state::default();
        let bytes = [0x55_i8, 0x04, 0x01, 0x00];
        lapic.regs[LINT0..LINT0 + 4].copy_from_slice(&bytes);
        set_mode(&mut lapic, LINT0, MODE_EXTINT);
        assert_eq!(lapic.regs[LINT0..LINT0 + 4], [0x55, 0x07, 0, 0]);
        set_mode(&mut lapic, LINT1, MODE_NMI);
        assert_eq!(lapic.regs[LINT1..LINT1 + 4], [0, 4, 0, 0]);
    }
}
