//! Where the registers are, and what they say. virtio 1.2 §4.2.2. Numbers only.

/// "virt", little endian.
pub const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface, which is 1.
pub const VERSION: u32 = 2;
/// "husk", little endian: any value is allowed, and drivers look at none.
pub const VENDOR: u32 = 0x6b73_7568;
/// What a shared memory region that does not exist reads as, both lengths and addresses.
pub const NO_SHARED_MEMORY: u32 = u32::MAX;

/// A register of the transport. All are 32 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// R
    MagicValue,
    /// R
    Version,
    /// R
    DeviceId,
    /// R
    VendorId,
    /// R: 32 of the features that the device offers.
    DeviceFeatures,
    /// W: which 32.
    DeviceFeaturesSel,
    /// W: 32 of the features that the driver takes.
    DriverFeatures,
    /// W: which 32.
    DriverFeaturesSel,
    /// Of the queue that is selected, and which that is.
    Queue(QueueRegister),
    /// W: the guest added to a queue.
    QueueNotify,
    /// R
    InterruptStatus,
    /// W
    InterruptAck,
    /// RW
    Status,
    /// W: SHMSel; R: SHMLenLow to SHMBaseHigh of the region that was selected.
    SharedMemory,
    /// R
    ConfigGeneration,
}

/// A register of the queue that is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueRegister {
    /// W: selects one.
    Sel,
    /// R
    NumMax,
    /// W
    Num,
    /// RW
    Ready,
    /// W: half of the address of a ring.
    Ring(Ring, Half),
}

/// A ring, as the registers name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// The descriptor table.
    Desc,
    /// "Driver area": the available ring.
    Driver,
    /// "Device area": the used ring.
    Device,
}

/// Half of a 64-bit value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

impl Half {
    /// `whole` with this half replaced.
    #[must_use]
    pub fn put(self, whole: u64, half: u32) -> u64 {
        match self {
            Self::Low => whole & !u64::from(u32::MAX) | u64::from(half),
            Self::High => whole & u64::from(u32::MAX) | u64::from(half) << 32,
        }
    }
}

impl Register {
    /// What is at an offset, if anything is.
    #[must_use]
    pub fn at(offset: u64) -> Option<Self> {
        use QueueRegister as Q;
        Some(match offset {
            0x000 => Self::MagicValue,
            0x004 => Self::Version,
            0x008 => Self::DeviceId,
            0x00c => Self::VendorId,
            0x010 => Self::DeviceFeatures,
            0x014 => Self::DeviceFeaturesSel,
            0x020 => Self::DriverFeatures,
            0x024 => Self::DriverFeaturesSel,
            0x030 => Self::Queue(Q::Sel),
            0x034 => Self::Queue(Q::NumMax),
            0x038 => Self::Queue(Q::Num),
            0x044 => Self::Queue(Q::Ready),
            0x050 => Self::QueueNotify,
            0x060 => Self::InterruptStatus,
            0x064 => Self::InterruptAck,
            0x070 => Self::Status,
            0x080 => Self::Queue(Q::Ring(Ring::Desc, Half::Low)),
            0x084 => Self::Queue(Q::Ring(Ring::Desc, Half::High)),
            0x090 => Self::Queue(Q::Ring(Ring::Driver, Half::Low)),
            0x094 => Self::Queue(Q::Ring(Ring::Driver, Half::High)),
            0x0a0 => Self::Queue(Q::Ring(Ring::Device, Half::Low)),
            0x0a4 => Self::Queue(Q::Ring(Ring::Device, Half::High)),
            0x0ac | 0x0b0 | 0x0b4 | 0x0b8 | 0x0bc => Self::SharedMemory,
            0x0fc => Self::ConfigGeneration,
            _ => return None,
        })
    }
}

/// The device's own configuration space begins here.
pub const CONFIG_SPACE: u64 = 0x100;
/// QueueNotify, for who catches writes to it before they get here.
pub const QUEUE_NOTIFY: u64 = 0x050;
