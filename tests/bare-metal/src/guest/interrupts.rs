//! Interrupts: which line brings which vector, how many came, and waiting for one.

use super::{gate, memory};

const LOCAL_APIC: u64 = 0xfee0_0000;
const ID: u64 = LOCAL_APIC + 0x20;
const SPURIOUS: u64 = LOCAL_APIC + 0xf0;
const COMMAND_LOW: u64 = LOCAL_APIC + 0x300;
const COMMAND_HIGH: u64 = LOCAL_APIC + 0x310;
/// The timer's registers. Intel SDM 3A §11.5.4.
pub const TIMER_VECTOR: u64 = LOCAL_APIC + 0x320;
/// See [`TIMER_VECTOR`].
pub const TIMER_INITIAL: u64 = LOCAL_APIC + 0x380;
/// See [`TIMER_VECTOR`].
pub const TIMER_COUNT: u64 = LOCAL_APIC + 0x390;
/// See [`TIMER_VECTOR`].
pub const TIMER_DIVIDE: u64 = LOCAL_APIC + 0x3e0;
/// APIC enabled, spurious vector 255.
const SPURIOUS_ENABLED: u32 = 0x1ff;
const IO_APIC: u64 = 0xfec0_0000;
const IO_APIC_DATA: u64 = IO_APIC + 0x10;
/// First redirection entry, of two registers each.
const IO_APIC_REDIRECTION: u32 = 0x10;
const FIRST_VECTOR: u8 = 0x30;
const ALARM_VECTOR: u8 = 0xf0;
const DIVIDE_BY_128: u32 = 0b1010;

/// The PC's interrupt controllers say nothing.
pub fn mask_legacy() {
    gate::out8(0x21, 0xff);
    gate::out8(0xa1, 0xff);
}

/// The local APIC takes interrupts.
pub fn enable() {
    memory::write32(SPURIOUS, SPURIOUS_ENABLED);
}

/// Interrupts of one vector.
#[derive(Clone, Copy)]
pub struct Line {
    vector: u8,
}

impl Line {
    /// Edge-triggered interrupts of the I/O APIC's input, to this processor.
    pub fn of_input(input: u8) -> Self {
        enable();
        let vector = FIRST_VECTOR + input;
        let register = IO_APIC_REDIRECTION + 2 * u32::from(input);
        // The high half is the destination: the APIC's id, in the same place as in its register.
        memory::write32(IO_APIC, register + 1);
        memory::write32(IO_APIC_DATA, memory::read32(ID));
        memory::write32(IO_APIC, register);
        memory::write32(IO_APIC_DATA, vector.into());
        Self { vector }
    }

    /// How many came so far.
    pub fn count(self) -> u32 {
        memory::read32(memory::address_of_interrupt_counts() + 4 * u64::from(self.vector))
    }

    /// Halts until there are more than `seen`.
    ///
    /// # Panics
    /// None comes in time.
    #[track_caller]
    pub fn wait_beyond(self, seen: u32, ms: u32) {
        assert!(self.comes_beyond(seen, ms), "no interrupt of vector {} comes", self.vector);
    }

    /// Halts until there are more than `seen`, or the time is over.
    pub fn comes_beyond(self, seen: u32, ms: u32) -> bool {
        let alarm = Self { vector: ALARM_VECTOR };
        let before = alarm.count();
        memory::write32(TIMER_DIVIDE, DIVIDE_BY_128);
        memory::write32(TIMER_VECTOR, ALARM_VECTOR.into());
        memory::write32(TIMER_INITIAL, ms.saturating_mul(1_000_000 / 128));
        while self.count() == seen && alarm.count() == before {
            gate::wait();
        }
        memory::write32(TIMER_INITIAL, 0);
        self.count() != seen
    }
}

/// Sends INIT, then SIPI for the page, to all other processors. Intel SDM 3A §9.4.4.
pub fn start_others(page: u8) {
    enable();
    memory::write32(COMMAND_HIGH, 0);
    memory::write32(COMMAND_LOW, 0x000c_4500);
    memory::write32(COMMAND_LOW, 0x000c_4600 | u32::from(page));
    memory::write32(COMMAND_LOW, 0x000c_4600 | u32::from(page));
}
