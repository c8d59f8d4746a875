//! The devices of a machine, made from its configuration, in the order in which they are on the bus.

use std::io;
use std::sync::Arc;

use super::descriptors::Descriptors;
use crate::channel::Channel;
use crate::config::{self, Config};
use crate::control::DeviceStatistics;
use crate::memory::Ram;
use crate::virtio::mmio::Transport;
use crate::virtio::vsock::{self, Progress, ProgressCell};
use crate::virtio::{self, Kind, console, rng};
use crate::vsock::Limits;

/// A device that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("set up the {} device", kind.name())]
pub struct DeviceError {
    kind: Kind,
    #[source]
    source: io::Error,
}

fn of(kind: Kind) -> impl FnOnce(io::Error) -> DeviceError {
    move |source| DeviceError { kind, source }
}

/// See the module.
pub struct Devices {
    transports: Vec<Arc<Transport>>,
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
        let mut devices = Self { transports: Vec::new(), guest: ProgressCell::default() };
        if let Some(vsock) = &config.devices.vsock {
            let device = make_vsock(vsock, descriptors).map_err(of(Kind::Vsock))?;
            devices.guest = device.progress();
            devices.add(Box::new(device), ram)?;
        }
        if config.devices.rng {
            devices.add(Box::new(rng::Device::new()), ram)?;
        }
        if let Some(console) = &config.devices.console {
            let output = descriptors.take(console.output);
            let device = console::Device::new(output, None, None).map_err(of(Kind::Console))?;
            devices.add(Box::new(device), ram)?;
        }
        Ok(devices)
    }

    fn add(&mut self, device: Box<dyn virtio::Device>, ram: &Ram) -> Result<(), DeviceError> {
        let kind = device.kind();
        let transport = Transport::new(device, ram.guest().clone()).map_err(of(kind))?;
        self.transports.push(Arc::new(transport));
        Ok(())
    }

    /// In their order.
    pub fn transports(&self) -> &[Arc<Transport>] {
        &self.transports
    }

    /// How far the guest came, as its vsock device knows.
    pub fn progress(&self) -> Progress {
        self.guest.get()
    }

    /// What each of them counted.
    pub fn statistics(&self) -> Vec<DeviceStatistics> {
        let numbers = |transport: &Arc<Transport>| {
            let counters = transport.counters().into_iter();
            DeviceStatistics {
                kind: transport.device().kind().name().to_owned(),
                counters: counters.map(|(name, number)| (name.to_owned(), number)).collect(),
            }
        };
        self.transports.iter().map(numbers).collect()
    }

    /// Waits for requests in flight: what the guest was told to be written is written.
    pub fn quiesce(&self) {
        for transport in &self.transports {
            transport.device().reset();
        }
    }
}

fn make_vsock(vsock: &config::Vsock, descriptors: &mut Descriptors) -> io::Result<vsock::Device> {
    let config = crate::vsock::Config {
        guest_cid: vsock.guest_cid.into(),
        host_cid: vsock.host_cid.into(),
        limits: Limits::default(),
    };
    vsock::Device::new(config, Channel::new(descriptors.take(vsock.host)))
}
