//! The probe's VM: its memory, its one vCPU in long mode, its code, and the ioctls. Judges nothing.

#![allow(unsafe_code)]

use std::fmt;
use std::io;
#[cfg(test)]
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const MEMORY_BYTES: usize = 64 << 10;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const CMPXCHG_OPERAND: u64 = 0x5000;
const XSAVE_AREA: u64 = 0x6000;
/// Bytes of the area that are filled beforehand to see whether XSAVE wrote.
const FILLER: u16 = 0xaaaa;
/// The code writes a [`Step`] to this port after each step.
const STEP_PORT: u16 = 0xf1;
/// A VM has this many exits at most before it is said to go astray.
const MAX_EXITS: usize = 16;

/// CR0 with protection, monitor coprocessor, extension type, numeric error, write protection,
/// paging. Intel SDM 3A §2.5.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4 with PAE, OSFXSR, OSXMMEXCPT, OSXSAVE. Intel SDM 3A §2.5.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 18;
/// EFER with long mode enabled and active. Intel SDM 3A §2.2.1.
const EFER: u64 = 1 << 8 | 1 << 10;
/// Present, writable. Intel SDM 3A §4.5.
const TABLE_ENTRY: u64 = 0b11;
/// Present, writable, a large page. Intel SDM 3A §4.5.
const LARGE_PAGE: u64 = 0b1000_0011;

/// Long mode; CMPXCHG16B; XSAVE. Each followed by its [`Step`] on [`STEP_PORT`].
const PROBE_CODE: [u8; 59] = [
    0x48, 0xb8, 1, 0, 0, 0, 1, 0, 0, 0, // mov rax, 0x1_0000_0001: 64-bit code only
    0xe6, 0xf1, // out 0xf1, al
    0xbf, 0x00, 0x50, 0, 0, // mov edi, CMPXCHG_OPERAND
    0x31, 0xc0, // xor eax, eax
    0x31, 0xd2, // xor edx, edx
    0xbb, 0x11, 0, 0, 0, // mov ebx, 0x11
    0xb9, 0x22, 0, 0, 0, // mov ecx, 0x22
    0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b [rdi]
    0xb0, 2, // mov al, 2
    0xe6, 0xf1, // out 0xf1, al
    0xbf, 0x00, 0x60, 0, 0, // mov edi, XSAVE_AREA
    0xb8, 1, 0, 0, 0, // mov eax, 1: x87 state
    0x48, 0x0f, 0xae, 0x27, // xsave64 [rdi] (edx is 0)
    0xb0, 3, // mov al, 3
    0xe6, 0xf1, // out 0xf1, al
    0xf4, // hlt
];

/// jmp to itself.
#[cfg(test)]
const ENDLESS_CODE: [u8; 2] = [0xeb, 0xfe];

/// How far the VM came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing was executed.
    Start,
    /// 64-bit code.
    LongMode,
    /// CMPXCHG16B.
    CompareExchange,
    /// XSAVE.
    Xsave,
}

impl Step {
    fn from_port(value: u8) -> Option<Self> {
        [Self::Start, Self::LongMode, Self::CompareExchange, Self::Xsave]
            .get(usize::from(value))
            .copied()
    }

    /// What comes behind this step, for people.
    pub fn next(self) -> &'static str {
        match self {
            Self::Start => "64-bit code",
            Self::LongMode => "CMPXCHG16B",
            Self::CompareExchange => "XSAVE",
            Self::Xsave => "HLT",
        }
    }
}

/// How the VM ended.
#[derive(Debug)]
pub enum Stop {
    /// Every instruction ran and did what it should.
    Finished,
    /// It stopped before the end.
    At {
        /// The last step it reported.
        reached: Step,
        /// What KVM said, for people.
        exit: String,
    },
    /// It reported an instruction that did not do its work.
    WrongResult {
        /// The instruction.
        what: &'static str,
    },
}

/// Which call KVM refused.
#[derive(Debug)]
pub struct Refusal {
    call: &'static str,
    source: io::Error,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.source)
    }
}

fn refusal(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Refusal {
    move |error| Refusal { call, source: io::Error::from_raw_os_error(error.errno()) }
}

/// A VM that is ready to run.
pub struct Machine {
    // Dropped in this order: the vCPU and the VM before the memory that they use.
    vcpu: VcpuFd,
    _vm: VmFd,
    memory: GuestMemoryMmap,
}

impl Machine {
    /// The probe's VM. The refusal of any call means that there is no KVM for us.
    pub fn build() -> Result<Self, Refusal> {
        Self::with_code(Kvm::new().map_err(refusal("open /dev/kvm"))?, &PROBE_CODE)
    }

    /// The probe's VM, on a KVM that is open.
    #[cfg(test)]
    pub fn build_on(kvm: OwnedFd) -> Result<Self, Refusal> {
        // SAFETY: the descriptor is owned and given away.
        Self::with_code(unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) }, &PROBE_CODE)
    }

    /// A VM that never ends by itself.
    #[cfg(test)]
    pub fn build_endless() -> Result<Self, Refusal> {
        Self::with_code(Kvm::new().map_err(refusal("open /dev/kvm"))?, &ENDLESS_CODE)
    }

    fn with_code(kvm: Kvm, code: &[u8]) -> Result<Self, Refusal> {
        let vm = kvm.create_vm().map_err(refusal("KVM_CREATE_VM"))?;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
            .map_err(|error| Refusal { call: "map memory", source: io::Error::other(error) })?;
        fill(&memory, code)
            .map_err(|error| Refusal { call: "write memory", source: io::Error::other(error) })?;
        let userspace_addr = memory
            .get_host_address(GuestAddress(0))
            .map_err(|error| Refusal { call: "find memory", source: io::Error::other(error) })?
            as u64;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr,
        };
        // SAFETY: the region is the whole mapping of `memory`, which the machine owns and drops
        // after the VM.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(refusal("KVM_SET_USER_MEMORY_REGION"))?;
        let vcpu = vm.create_vcpu(0).map_err(refusal("KVM_CREATE_VCPU"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refusal("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(refusal("KVM_SET_CPUID2"))?;
        let mut sregs = vcpu.get_sregs().map_err(refusal("KVM_GET_SREGS"))?;
        enter_long_mode(&mut sregs);
        vcpu.set_sregs(&sregs).map_err(refusal("KVM_SET_SREGS"))?;
        let regs = kvm_regs { rip: CODE, rflags: 2, ..kvm_regs::default() };
        vcpu.set_regs(&regs).map_err(refusal("KVM_SET_REGS"))?;
        Ok(Self { vcpu, _vm: vm, memory })
    }

    /// Runs the VM until it ends, or until it is interrupted.
    pub fn run(mut self) -> Stop {
        let mut reached = Step::Start;
        for _ in 0..MAX_EXITS {
            let exit = match self.vcpu.run() {
                Ok(VcpuExit::IoOut(STEP_PORT, data)) => {
                    match data.first().copied().and_then(Step::from_port) {
                        Some(step) => {
                            reached = step;
                            continue;
                        }
                        None => "wrote what it should not".into(),
                    }
                }
                Ok(VcpuExit::Hlt) if reached == Step::Xsave => return self.check(),
                Ok(VcpuExit::InternalError) => {
                    "KVM_EXIT_INTERNAL_ERROR, it could not be emulated".into()
                }
                Ok(exit) => format!("the vCPU stopped with {exit:?}"),
                Err(error) if error.errno() == libc::EINTR => {
                    "interrupted, it took too long".into()
                }
                Err(error) => {
                    format!("KVM_RUN: {}", io::Error::from_raw_os_error(error.errno()))
                }
            };
            return Stop::At { reached, exit };
        }
        Stop::At { reached, exit: "it went astray".into() }
    }

    fn check(&self) -> Stop {
        let operand = self.memory.read_obj::<[u64; 2]>(GuestAddress(CMPXCHG_OPERAND));
        if operand.ok() != Some([0x11, 0x22]) {
            return Stop::WrongResult { what: "CMPXCHG16B" };
        }
        // The first field is the x87 control word. Intel SDM 1 §13.4.1.
        let control_word = self.memory.read_obj::<u16>(GuestAddress(XSAVE_AREA));
        if control_word.ok().is_none_or(|word| word == FILLER) {
            return Stop::WrongResult { what: "XSAVE" };
        }
        Stop::Finished
    }
}

fn fill(memory: &GuestMemoryMmap, code: &[u8]) -> Result<(), vm_memory::GuestMemoryError> {
    memory.write_obj(PDPT | TABLE_ENTRY, GuestAddress(PML4))?;
    memory.write_obj(PAGE_DIRECTORY | TABLE_ENTRY, GuestAddress(PDPT))?;
    memory.write_obj(LARGE_PAGE, GuestAddress(PAGE_DIRECTORY))?;
    memory.write_obj(FILLER, GuestAddress(XSAVE_AREA))?;
    memory.write_slice(code, GuestAddress(CODE))
}

fn enter_long_mode(sregs: &mut kvm_sregs) {
    let code = kvm_segment {
        limit: u32::MAX,
        selector: 8,
        type_: 0b1011, // execute, read, accessed
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment { selector: 16, type_: 0b0011, l: 0, db: 1, ..code };
    sregs.cs = code;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.cr0 = CR0;
    sregs.cr3 = PML4;
    sregs.cr4 = CR4;
    sregs.efer = EFER;
}
