//! The devices of a machine, made from its configuration, in the order in which they are on the
//! bus.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::descriptors::Descriptors;
use crate::Memory;
use crate::channel::Channel;
use crate::config::{self, Config};
use crate::control::DeviceStatistics;
use crate::jail::filter::{self, Role};
use crate::memory::Ram;
use crate::rate_limit::Limits;
use crate::virtio::mmio::Transport;
use crate::virtio::net::Mac;
use crate::virtio::vsock::{self, Progress, ProgressCell};
use crate::virtio::{self, Kind, balloon, blk, console, fs, mem, net, rng};

/// A device that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{} device{name}", kind.name())]
pub struct DeviceError {
    kind: Kind,
    /// Behind a space; empty where there is one of a kind, or the device names itself.
    name: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

fn of<E: Into<Box<dyn Error + Send + Sync>>>(
    kind: Kind,
    name: impl fmt::Display,
) -> impl FnOnce(E) -> DeviceError {
    let name = name.to_string();
    let name = if name.is_empty() { name } else { format!(" {name}") };
    move |source| DeviceError { kind, name, source: source.into() }
}

/// By what the monitor names a device of which there may be several.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Disk(String),
    Net(Mac),
    Share(String),
    /// There is one of the kind.
    Only,
}

/// Empty where there is but one.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(name) | Self::Share(name) => f.write_str(name),
            Self::Net(mac) => mac.fmt(f),
            Self::Only => Ok(()),
        }
    }
}

/// See the module.
pub struct Devices {
    transports: Vec<Arc<Transport>>,
    /// Of each of them.
    names: Vec<Name>,
    guest: ProgressCell,
}

impl Devices {
    /// Makes all that `config` has.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn build(
        config: &Config,
        descriptors: &mut Descriptors,
        ram: &Ram,
    ) -> Result<Self, DeviceError> {
        let mut devices =
            Self { transports: Vec::new(), names: Vec::new(), guest: ProgressCell::default() };
        for disk in &config.devices.disks {
            devices.add_disk(disk, descriptors, ram)?;
        }
        for net in &config.devices.nets {
            let failed = of(Kind::Net, net.mac);
            let device = net::Device::new(net, descriptors.take(net.tap)).map_err(failed)?;
            devices.add(Name::Net(net.mac), device, ram)?;
        }
        if let Some(vsock) = &config.devices.vsock {
            let device = make_vsock(vsock, descriptors).map_err(of(Kind::Vsock, ""))?;
            devices.guest = device.progress();
            devices.add(Name::Only, device, ram)?;
        }
        devices.add_small(config, descriptors, ram)?;
        devices.add_memory(config, ram)?;
        for share in &config.devices.shares {
            let failed = of(Kind::Fs, &share.tag);
            let device = fs::Device::new(share, descriptors.take(share.socket)).map_err(failed)?;
            devices.add(Name::Share(share.tag.clone()), device, ram)?;
        }
        Ok(devices)
    }

    fn add_disk(
        &mut self,
        disk: &blk::Config,
        descriptors: &mut Descriptors,
        ram: &Ram,
    ) -> Result<(), DeviceError> {
        let jailed: blk::engine::OnThread =
            Arc::new(|| filter::install(Role::Block).map_err(io::Error::other));
        let device = blk::Device::new(disk, descriptors.take(disk.file), &jailed)
            .map_err(of(Kind::Block, ""))?;
        self.add(Name::Disk(disk.serial.clone()), device, ram)
    }

    fn add_small(
        &mut self,
        config: &Config,
        descriptors: &mut Descriptors,
        ram: &Ram,
    ) -> Result<(), DeviceError> {
        if config.devices.rng {
            self.add(Name::Only, rng::Device::new(), ram)?;
        }
        if let Some(console) = &config.devices.console {
            let input = console.input.map(|number| descriptors.take(number));
            let device =
                console::Device::new(descriptors.take(console.output), input, console.size)
                    .map_err(of(Kind::Console, ""))?;
            self.add(Name::Only, device, ram)?;
        }
        Ok(())
    }

    fn add_memory(&mut self, config: &Config, ram: &Ram) -> Result<(), DeviceError> {
        if let Some(balloon) = config.devices.balloon {
            let device = balloon::Device::new(balloon, config.memory.mib);
            self.add(Name::Only, device.map_err(of(Kind::Balloon, ""))?, ram)?;
        }
        if let Some(hotplug) = ram.hotplug() {
            let device = mem::Device::new(config.devices.mem, hotplug.region());
            self.add(Name::Only, device.map_err(of(Kind::Mem, ""))?, ram)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: Name,
        device: impl virtio::Device,
        ram: &Ram,
    ) -> Result<(), DeviceError> {
        let failed = of(device.kind(), "");
        let transport = Transport::new(Box::new(device), ram.guest().clone()).map_err(failed)?;
        self.transports.push(Arc::new(transport));
        self.names.push(name);
        Ok(())
    }

    /// Lets `change` change the device of a type and a name. `None` when there is none.
    fn change<D: virtio::Device, T>(
        &self,
        name: &Name,
        change: impl FnOnce(&mut D) -> T,
    ) -> Option<T> {
        let named = self.transports.iter().zip(&self.names).filter(|(_, own)| *own == name);
        for (transport, _) in named {
            if let Some(device) = transport.device().downcast_mut::<D>() {
                return Some(change(device));
            }
        }
        None
    }

    /// Another target of the balloon. `None` when there is none.
    pub fn set_balloon(&self, mib: u32) -> Option<Result<(), balloon::TargetError>> {
        self.change(&Name::Only, |device: &mut balloon::Device| device.set_target_mib(mib))
    }

    /// Lets `change` change virtio-mem. `None` when there is no hot-plug memory.
    pub fn change_mem<T>(&self, change: impl FnOnce(&mut mem::Device) -> T) -> Option<T> {
        self.change(&Name::Only, change)
    }

    /// Of each disk with requests at work, what lives as long as these.
    pub fn in_flight(&self) -> Vec<Weak<Memory>> {
        let of_disk = |transport: &Arc<Transport>| {
            transport.device().downcast_mut::<blk::Device>().and_then(blk::Device::in_flight)
        };
        self.transports.iter().filter_map(of_disk).collect()
    }

    /// Guest memory is another: processes that have it, too, are told.
    pub fn share(&self, memory: &Memory) {
        for transport in &self.transports {
            if let Some(device) = transport.device().downcast_mut::<fs::Device>() {
                device.share(memory);
            }
        }
    }

    /// Other limits of a disk. `None` when there is none of that serial.
    pub fn limit_disk(&self, serial: &str, limits: &Limits) -> Option<io::Result<()>> {
        let name = Name::Disk(serial.to_owned());
        self.change(&name, |device: &mut blk::Device| device.set_limits(limits))
    }

    /// Other limits of a network interface. `None` when there is none of that address.
    pub fn limit_net(&self, mac: Mac, rx: &Limits, tx: &Limits) -> Option<io::Result<()>> {
        self.change(&Name::Net(mac), |device: &mut net::Device| device.set_limits(rx, tx))
    }

    /// In their order.
    pub fn transports(&self) -> &[Arc<Transport>] {
        &self.transports
    }

    /// How far the guest came, as its vsock device knows.
    pub fn progress(&self) -> Progress {
        self.guest.get()
    }

    /// Asks the guest how its memory stands, which is among the statistics once it has answered.
    /// Writes to guest memory.
    pub fn ask_guest(&self) {
        // One that cannot be asked now still has to answer, or never will.
        let _ = self.change(&Name::Only, balloon::Device::ask_for_statistics);
    }

    /// What each of them counted.
    pub fn statistics(&self) -> Vec<DeviceStatistics> {
        let numbers = |(transport, name): (&Arc<Transport>, &Name)| {
            let counters = transport.counters().into_iter();
            DeviceStatistics {
                kind: transport.device().kind().name().to_owned(),
                name: name.to_string(),
                counters: counters.map(|(name, number)| (name.to_owned(), number)).collect(),
            }
        };
        self.transports.iter().zip(&self.names).map(numbers).collect()
    }

    /// Waits until no device writes to guest memory, while the guest's processors are paused.
    ///
    /// # Errors
    /// The device that still did when the time was up, for people.
    pub fn rest(&self, until: Instant) -> Result<(), String> {
        for (transport, name) in self.transports.iter().zip(&self.names) {
            let mut device = transport.device();
            if !device.rest(until) {
                return Err(format!("{} device {name}", device.kind().name())
                    .trim_end()
                    .to_owned());
            }
        }
        Ok(())
    }

    /// Waits for requests in flight: what the guest was told to be written is written. Those of
    /// another process are not ours to wait for, and it may hang.
    pub fn quiesce(&self) {
        for transport in &self.transports {
            let mut device = transport.device();
            if !device.takes_kicks() {
                device.reset();
            }
        }
    }
}

fn make_vsock(vsock: &config::Vsock, descriptors: &mut Descriptors) -> io::Result<vsock::Device> {
    let config = crate::vsock::Config {
        guest_cid: vsock.guest_cid.into(),
        host_cid: vsock.host_cid.into(),
        limits: crate::vsock::Limits::default(),
    };
    vsock::Device::new(config, Channel::new(descriptors.take(vsock.host)))
}
