//! The messages, as they are on the wire. Nothing here acts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rate_limit::Limits;
use crate::virtio::net::Mac;

/// A request and the number that its reply carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The asker's own.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What can be asked of a VMM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Request {
    /// Lets the processors of a machine begin that was built to wait.
    Start,
    /// Stops every processor and all devices, until [`Self::Resume`]. Guest memory changes no more
    /// when the reply comes, but for what a vhost-user back end still does. Refused, and the guest
    /// goes on, where what was begun takes longer than some seconds.
    Pause,
    /// Lets them go on.
    Resume,
    /// Ends the machine as if its plug were pulled. The process ends, too.
    Stop,
    /// Asks for [`Statistics`]. What the guest says of its own memory is what it said after the
    /// request before.
    Statistics,
    /// How much memory the guest should give up through its balloon.
    BalloonTarget {
        /// Inflated to this.
        mib: u32,
    },
    /// How much of its hot-plug memory the guest should use.
    MemTarget {
        /// In MiB, a multiple of 2, of the region's size. This much is there for the guest, rounded
        /// up to whole chunks, when the reply comes; what is less goes when the guest has unplugged
        /// it.
        mib: u32,
    },
    /// Other limits of a disk, from now on.
    DiskLimits {
        /// Of the disk.
        serial: String,
        /// The new ones.
        limits: Limits,
    },
    /// Other limits of a network interface, from now on.
    NetLimits {
        /// Of the interface.
        mac: Mac,
        /// Of what the guest gets.
        rx: Limits,
        /// Of what the guest sends.
        tx: Limits,
    },
}

/// What a VMM says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Message {
    /// The answer to the call of that number.
    Reply {
        /// The call's.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// As asked for.
    Statistics(Box<Statistics>),
    /// Nothing was done.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

/// What happens once in the life of a machine, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Event {
    /// The machine is built. Its processors run, or wait for [`Request::Start`].
    Built {
        /// Layers of the VMM's jail by name, and how they stand, for people: `yes`, or `partly` or
        /// `no` with the reason.
        jail: BTreeMap<String, String>,
    },
    /// The guest's driver of the vsock device is ready: its kernel runs.
    DriverReady,
    /// The guest sent a packet: its user space runs.
    FirstPacket,
    /// The machine has ended; the process is about to.
    Ended {
        /// Of the process.
        status: u8,
        /// How, for people.
        how: String,
    },
}

/// Numbers of a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Since the processors began.
    pub uptime_ms: u64,
    /// Exits from the guest, of all processors, by their kind.
    pub exits: BTreeMap<String, u64>,
    /// What the devices counted, in their order.
    pub devices: Vec<DeviceStatistics>,
    /// `None` where the kernel does not tell.
    pub memory: Option<MemoryUse>,
    /// What the guest wrote to its serial port and nobody had room for.
    pub console_lost_bytes: u64,
}

/// Numbers of one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceStatistics {
    /// Its kind.
    pub kind: String,
    /// Serial of a disk, address of a network interface, tag of a file system, else empty.
    pub name: String,
    /// Its own counters.
    pub counters: BTreeMap<String, u64>,
}

/// Memory of the VMM's process: shared pages count by their share (PSS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryUse {
    /// Beside the guest's memory.
    pub own_kib: u64,
    /// Of the guest's memory, what was touched.
    pub guest_kib: u64,
}
