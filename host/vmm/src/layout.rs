//! Where everything is in the guest's physical address space. Numbers only.
//!
//! ```text
//! 0                 low memory: boot parameters, page tables, MP table
//! 1 MiB             kernel, then free memory, the initramfs at the end of it
//! HOLE_START 3 GiB  MMIO: virtio devices, interrupt controllers
//! HOLE_END   4 GiB  memory again, if there is more than 3 GiB
//! ```

/// First byte that is no memory: the MMIO hole begins. 3 GiB.
pub const HOLE_START: u64 = 0xc000_0000;
/// First byte of memory above the hole. 4 GiB.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// Memory that can be plugged begins at a multiple of it, above all other memory, and never at
/// HOLE_END. 128 MiB, the memory block of Linux.
pub const HOTPLUG_ALIGN: u64 = 128 << 20;

/// Registers of the first virtio device; the others follow.
pub const VIRTIO_BASE: u64 = 0xd000_0000;
/// Between the registers of two devices. virtio 1.2 §4.2.2 needs 0x100 and the configuration space.
pub const VIRTIO_STRIDE: u64 = 0x1000;
/// First interrupt of a virtio device: the ISA ones below belong to timer, keyboard and serial
/// port.
pub const VIRTIO_FIRST_GSI: u32 = 5;
/// Last interrupt of the I/O APIC.
pub const VIRTIO_LAST_GSI: u32 = 23;
/// The most virtio devices of one machine.
pub const MAX_VIRTIO_DEVICES: usize = 19;

/// The I/O APIC. MultiProcessor Specification 1.4 §3.6.5.
pub const IO_APIC: u64 = 0xfec0_0000;
/// The local APICs. MultiProcessor Specification 1.4 §3.6.5.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Three pages for the task state of real mode on Intel; KVM_SET_TSS_ADDR.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// One page for the page table of real mode on Intel; KVM_SET_IDENTITY_MAP_ADDR.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// Global descriptor table at the start: four descriptors.
pub const BOOT_GDT: u64 = 0x500;
/// Interrupt descriptor table at the start: empty.
pub const BOOT_IDT: u64 = 0x520;
/// hvm_start_info of the PVH entry, and what it points to.
pub const PVH_INFO: u64 = 0x6000;
/// The "zero page" of the 64-bit entry. Linux Documentation/x86/boot.rst.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of the first processor's stack at the start.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables of the 64-bit entry: six pages, which map the first 4 GiB to themselves.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// The most bytes of it, with its zero. COMMAND_LINE_SIZE of x86.
pub const COMMAND_LINE_MAX: usize = 2048;
/// The MP table, in the last KiB of base memory, where kernels look for it; also the end of that
/// memory for the guest.
pub const MP_TABLE: u64 = 0x9_fc00;
/// The kernel may begin here, and the memory above the PC's legacy area does.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// The serial port's registers and interrupt: COM1.
pub const SERIAL_PORT: u16 = 0x3f8;
/// See [`SERIAL_PORT`].
pub const SERIAL_GSI: u32 = 4;
/// The keyboard controller's data port; commands, of which one resets, go 4 above.
pub const I8042_PORT: u16 = 0x60;
