//! What CPUID tells the guest: what KVM supports on this host, without what a guest must not build
//! on, and with the machine's own topology: one package, a core for each processor, one thread in
//! each.

use std::io;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::MachineError;

/// A register of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Features that are not the guest's: leaf, subleaf, register, bits. Intel SDM 2A "CPUID"; AMD APM
/// 3 appendix E.
const HIDDEN: [(u32, u32, Register, u32); 9] = [
    // MONITOR would let the guest keep a processor of the host for itself; VMX is a hypervisor's,
    // and the most intricate part of KVM; PDCM announces performance counters.
    (0x1, 0, Register::Ecx, 1 << 3 | 1 << 5 | 1 << 15),
    // SGX and processor trace need more than a bit.
    (0x7, 0, Register::Ebx, 1 << 2 | 1 << 25),
    // SGX launch control.
    (0x7, 0, Register::Ecx, 1 << 30),
    // AMX, and the state that it needs: KVM has that for a process that asked for it, and before
    // Linux 6.4 tells all others of half of it. A kernel faults when it enables that half.
    (0x7, 0, Register::Edx, 1 << 22 | 1 << 24 | 1 << 25),
    (0x7, 1, Register::Eax, 1 << 21),
    (0x7, 1, Register::Edx, 1 << 8),
    (0xd, 0, Register::Eax, 1 << 17 | 1 << 18),
    (0xd, 1, Register::Eax, 1 << 4),
    // SVM, three kinds of performance counters, MONITORX; as above.
    (0x8000_0001, 0, Register::Ecx, 1 << 2 | 1 << 23 | 1 << 24 | 1 << 28 | 1 << 29),
];

/// Leaves that say nothing here: MONITOR, performance counters, SGX, processor trace, AMX, a second
/// topology of Intel's, SVM, encrypted memory, which this machine has not got and whose registers
/// fault, performance counters and a second topology of AMD's.
const EMPTY: [u32; 11] =
    [0x5, 0xa, 0x12, 0x14, 0x1d, 0x1e, 0x1f, 0x8000_000a, 0x8000_001f, 0x8000_0022, 0x8000_0026];
/// Leaf 0xd, the state of AMX: its configuration and its tiles.
const AMX_STATE: [u32; 2] = [17, 18];

/// Leaf 1, ECX: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: the local APIC's timer can be set to a time of the time stamp counter.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, EDX: the number of processors in leaf 1 is valid.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: that there are several processors is because of several cores.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0xb, ECX: what a level is.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// The first level of the caches that all cores share.
const SHARED_CACHE_LEVEL: u32 = 3;

/// One processor among its like.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Its number, which is its APIC id.
    index: u32,
    /// How many there are.
    count: u32,
}

impl Place {
    /// Bits of the APIC id that number the cores of the package.
    fn core_bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    /// The highest APIC id that the package has room for.
    fn last_id(self) -> u32 {
        (1 << self.core_bits()) - 1
    }
}

/// KVM's own local APIC has the timer; many KVMs only tell by a capability, as they do not know
/// whether the machine uses that APIC.
pub(super) fn add_deadline_timer(supported: &mut CpuId) {
    for entry in supported.as_mut_slice() {
        if entry.function == 1 {
            entry.ecx |= TSC_DEADLINE;
        }
    }
}

/// The answers of the processor at `index`, one of `count`.
///
/// # Errors
/// There are more than KVM takes.
pub(super) fn of_vcpu(supported: &CpuId, index: u8, count: u8) -> Result<CpuId, MachineError> {
    CpuId::from_entries(&answers(supported, index, count)).map_err(|_| MachineError::Kvm {
        call: "KVM_SET_CPUID2",
        source: io::Error::from_raw_os_error(libc::E2BIG),
    })
}

fn answers(supported: &CpuId, index: u8, count: u8) -> Vec<kvm_cpuid_entry2> {
    let place = Place { index: index.into(), count: count.into() };
    let amd = is_amd(supported);
    let mut entries: Vec<_> =
        supported.as_slice().iter().copied().filter(|entry| entry.function != 0xb).collect();
    for entry in &mut entries {
        hide(entry);
        place_in_common_leaves(entry, place);
        if amd {
            place_in_amd_leaves(entry, place);
        } else {
            place_in_intel_leaves(entry, place);
        }
    }
    entries.extend(topology(place));
    entries
}

/// "AuthenticAMD" or "HygonGenuine": EBX, EDX, ECX of leaf 0.
pub(super) fn is_amd(answers: &CpuId) -> bool {
    answers.as_slice().iter().filter(|entry| entry.function == 0).any(|entry| {
        let vendor = [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat();
        vendor == b"AuthenticAMD" || vendor == b"HygonGenuine"
    })
}

fn hide(entry: &mut kvm_cpuid_entry2) {
    for (leaf, subleaf, register, bits) in HIDDEN {
        if (entry.function, entry.index) == (leaf, subleaf) {
            let register = match register {
                Register::Eax => &mut entry.eax,
                Register::Ebx => &mut entry.ebx,
                Register::Ecx => &mut entry.ecx,
                Register::Edx => &mut entry.edx,
            };
            *register &= !bits;
        }
    }
    let amx_state = entry.function == 0xd && AMX_STATE.contains(&entry.index);
    if amx_state || EMPTY.contains(&entry.function) {
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
    }
}

fn place_in_common_leaves(entry: &mut kvm_cpuid_entry2, place: Place) {
    if entry.function == 1 {
        // Bits 31-24: the APIC id; 23-16: processors in the package.
        entry.ebx = entry.ebx & 0xffff | place.index << 24 | place.count << 16;
        entry.ecx |= HYPERVISOR;
        entry.edx = if place.count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
    }
}

/// The type of a cache in bits 4-0 of EAX, 0 for none; its level in bits 7-5. The caches of leaf 4
/// and of AMD's leaf 0x8000_001d look the same.
fn shared_by(eax: u32, place: Place) -> u32 {
    let level = eax >> 5 & 7;
    if level >= SHARED_CACHE_LEVEL { place.last_id() } else { 0 }
}

fn place_in_intel_leaves(entry: &mut kvm_cpuid_entry2, place: Place) {
    if entry.function == 4 && entry.eax & 0x1f != 0 {
        // Bits 25-14: the last of those that share the cache; 31-26: the last core of the package.
        let shared = shared_by(entry.eax, place);
        entry.eax = entry.eax & 0x3fff | shared << 14 | place.last_id() << 26;
    }
}

fn place_in_amd_leaves(entry: &mut kvm_cpuid_entry2, place: Place) {
    match entry.function {
        0x8000_0001 if place.count > 1 => entry.ecx |= CMP_LEGACY,
        0x8000_0001 => entry.ecx &= !CMP_LEGACY,
        // Bits 7-0: the last core; 15-12: bits of the APIC id that number cores.
        0x8000_0008 => {
            entry.ecx = entry.ecx & !0xf0ff | place.core_bits() << 12 | (place.count - 1);
        }
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let shared = shared_by(entry.eax, place).min(place.count - 1);
            entry.eax = entry.eax & 0x3fff | shared << 14;
        }
        // The APIC id; the core, with one thread; the node, of which there is one.
        0x8000_001e => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (place.index, place.index, 0, 0);
        }
        _ => {}
    }
}

/// Leaf 0xb: threads of a core, cores of the package, and the end of the list.
fn topology(place: Place) -> [kvm_cpuid_entry2; 3] {
    let level = |index, shift, count, kind| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind | index,
        edx: place.index,
        ..kvm_cpuid_entry2::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, place.core_bits(), place.count, LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: u32 = u32::MAX;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
    }

    fn vendor(name: &[u8; 12]) -> kvm_cpuid_entry2 {
        let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
        entry(0, 0, [0x1f, word(0), word(8), word(4)])
    }

    fn host(name: &[u8; 12]) -> CpuId {
        let all = [EVERYTHING; 4];
        CpuId::from_entries(&[
            vendor(name),
            entry(1, 0, all),
            entry(4, 0, [0x121, 0, 0, 0]),
            entry(4, 1, [0x163, 0, 0, 0]),
            entry(4, 2, [0; 4]),
            entry(5, 0, all),
            entry(7, 0, all),
            entry(7, 1, all),
            entry(0xa, 0, all),
            entry(0xb, 0, all),
            entry(0xd, 0, all),
            entry(0xd, 1, all),
            entry(0xd, 2, all),
            entry(0xd, 17, all),
            entry(0xd, 18, all),
            entry(0x1d, 1, all),
            entry(0x1e, 0, all),
            entry(0x1f, 0, all),
            entry(0x8000_0001, 0, all),
            entry(0x8000_0008, 0, all),
            entry(0x8000_000a, 0, all),
            entry(0x8000_001d, 3, [0x163, 0, 0, 0]),
            entry(0x8000_001e, 0, all),
            entry(0x8000_001f, 0, all),
        ])
        .unwrap()
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let same = |entry: &&kvm_cpuid_entry2| (entry.function, entry.index) == (function, index);
        *entries.iter().find(same).unwrap()
    }

    fn registers(entry: kvm_cpuid_entry2) -> [u32; 4] {
        [entry.eax, entry.ebx, entry.ecx, entry.edx]
    }

    #[test]
    fn every_processor_has_its_own_id_in_every_leaf_that_has_one() {
        let host = host(b"AuthenticAMD");
        for index in [0, 2, 31] {
            let entries = answers(&host, index, 32);
            let id = u32::from(index);
            assert_eq!(find(&entries, 1, 0).ebx >> 24, id);
            for level in 0..3 {
                assert_eq!(find(&entries, 0xb, level).edx, id);
            }
            assert_eq!(find(&entries, 0x8000_001e, 0).eax, id);
        }
    }

    #[test]
    fn the_topology_is_a_core_for_each_processor() {
        for (count, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (32, 5)] {
            let entries = answers(&host(b"AuthenticAMD"), 0, count);
            let count = u32::from(count);
            assert_eq!(find(&entries, 1, 0).ebx >> 16 & 0xff, count);
            assert_eq!(find(&entries, 1, 0).edx & HTT != 0, count > 1);
            let threads = find(&entries, 0xb, 0);
            assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 0x100));
            let cores = find(&entries, 0xb, 1);
            assert_eq!((cores.eax, cores.ebx, cores.ecx), (bits, count, 0x201));
            let end = find(&entries, 0xb, 2);
            assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
            assert_eq!(find(&entries, 0x8000_0008, 0).ecx & 0xf0ff, bits << 12 | (count - 1));
            assert_eq!(find(&entries, 0x8000_001e, 0).ebx >> 8, 0, "one thread in a core");
            assert_eq!(entries.iter().filter(|entry| entry.function == 0xb).count(), 3);
        }
    }

    #[test]
    fn small_caches_are_a_core_s_own_and_the_big_one_is_shared() {
        let entries = answers(&host(b"GenuineIntel"), 0, 6);
        let [first, third] = [0, 1].map(|index| find(&entries, 4, index).eax);
        assert_eq!(first & 0x3fff, 0x121);
        assert_eq!((first >> 14 & 0xfff, first >> 26), (0, 7));
        assert_eq!((third >> 14 & 0xfff, third >> 26), (7, 7));
        assert_eq!(find(&entries, 4, 2).eax, 0, "the end of the list stays");
        let entries = answers(&host(b"HygonGenuine"), 0, 6);
        assert_eq!(find(&entries, 0x8000_001d, 3).eax >> 14, 5);
    }

    #[test]
    fn what_a_guest_must_not_build_on_is_not_there() {
        for name in [b"AuthenticAMD", b"GenuineIntel"] {
            let entries = answers(&host(name), 0, 1);
            let (monitor, vmx) = (1 << 3, 1 << 5);
            assert_eq!(find(&entries, 1, 0).ecx & (monitor | vmx), 0);
            let svm = 1 << 2;
            assert_eq!(find(&entries, 0x8000_0001, 0).ecx & svm, 0);
            for leaf in [0x5, 0xa, 0x1f, 0x8000_000a, 0x8000_001f] {
                assert_eq!(registers(find(&entries, leaf, 0)), [0; 4], "{leaf:#x}");
            }
            assert_ne!(find(&entries, 1, 0).ecx & HYPERVISOR, 0);
        }
    }

    #[test]
    fn of_amx_there_is_neither_the_feature_nor_any_of_its_state() {
        let entries = answers(&host(b"GenuineIntel"), 0, 1);
        // Intel SDM 2A, "CPUID": AMX-BF16, AMX-TILE, AMX-INT8, AMX-FP16, AMX-COMPLEX.
        assert_eq!(find(&entries, 7, 0).edx, !(1 << 22 | 1 << 24 | 1 << 25));
        assert_eq!(find(&entries, 7, 1).eax, !(1 << 21));
        assert_eq!(find(&entries, 7, 1).edx, !(1 << 8));
        // XCR0 takes XTILECFG and XTILEDATA together or not at all; XFD is for AMX alone.
        assert_eq!(find(&entries, 0xd, 0).eax, !(0b11 << 17));
        assert_eq!(find(&entries, 0xd, 1).eax, !(1 << 4));
        for (leaf, index) in [(0xd, 17), (0xd, 18), (0x1d, 1), (0x1e, 0)] {
            assert_eq!(registers(find(&entries, leaf, index)), [0; 4], "{leaf:#x} {index}");
        }
        assert_eq!(registers(find(&entries, 0xd, 2)), [EVERYTHING; 4], "other state stays");
    }

    #[test]
    fn the_deadline_timer_is_there_where_kvm_has_it() {
        let mut host = CpuId::from_entries(&[entry(1, 0, [0; 4]), entry(2, 0, [0; 4])]).unwrap();
        assert_eq!(find(&answers(&host, 0, 1), 1, 0).ecx & TSC_DEADLINE, 0);
        add_deadline_timer(&mut host);
        assert_ne!(find(&answers(&host, 0, 1), 1, 0).ecx & TSC_DEADLINE, 0);
        assert_eq!(find(&answers(&host, 0, 1), 2, 0).ecx, 0);
    }
}
