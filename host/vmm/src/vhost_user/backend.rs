//! The front end's requests, answered. Keeps what it set up; serves no queue.

use std::fs::File;
use std::io;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::memory::SharedMemory;
use super::vring::{RingAddresses, Vring};

/// Queues of the device that are served here; the front end keeps the event queue.
pub const QUEUES: usize = 2;

const VIRTIO_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// What the front end set up.
#[derive(Debug)]
pub struct Backend {
    guest_cid: u64,
    memory: SharedMemory,
    vrings: [Vring; QUEUES],
    acked_features: u64,
    /// A queue stopped since [`Self::take_reset`].
    reset: bool,
    /// Kick descriptors came or went since [`Self::take_kicks_changed`].
    kicks_changed: bool,
}

impl Backend {
    /// A device that nobody set up.
    #[must_use]
    pub fn new(guest_cid: u64) -> Self {
        Self {
            guest_cid,
            memory: SharedMemory::default(),
            vrings: Default::default(),
            acked_features: 0,
            reset: false,
            kicks_changed: false,
        }
    }

    /// Guest memory and the queues on it.
    pub fn parts(&mut self) -> (&SharedMemory, &mut [Vring; QUEUES]) {
        (&self.memory, &mut self.vrings)
    }

    /// Whether the guest's driver let go of the device since the last call.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.reset)
    }

    /// Whether kick descriptors changed since the last call.
    pub fn take_kicks_changed(&mut self) -> bool {
        std::mem::take(&mut self.kicks_changed)
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.vrings.get_mut(index))
            .ok_or(Error::InvalidParam)
    }

    fn start(&mut self, index: u32) -> Result<()> {
        let event_idx = self.acked_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let vring = usize::try_from(index)
            .ok()
            .and_then(|index| self.vrings.get_mut(index))
            .ok_or(Error::InvalidParam)?;
        vring.start(&self.memory, event_idx).map_err(refused)?;
        Ok(())
    }

    fn config_space(&self) -> [u8; 8] {
        self.guest_cid.to_le_bytes()
    }
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}

fn unsupported() -> Error {
    Error::InvalidOperation("not offered")
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        for vring in &mut self.vrings {
            vring.stop();
            vring.set_enabled(false);
        }
        self.acked_features = 0;
        self.reset = true;
        self.kicks_changed = true;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(VIRTIO_FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if features & !(VIRTIO_FEATURES | protocol) != 0 {
            return Err(Error::InvalidParam);
        }
        self.acked_features = features;
        // "Ring states": without the feature there is no SET_VRING_ENABLE.
        if features & protocol == 0 {
            for index in [0, 1] {
                self.set_vring_enable(index, true)?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
        postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        if postcopy_listening.is_some() {
            return Err(unsupported());
        }
        self.memory = SharedMemory::map(table, files).map_err(refused)?;
        for vring in &mut self.vrings {
            vring.revalidate(&self.memory);
        }
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.vring(index)?.set_size(num).map_err(refused)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.vring(index)?.set_addresses(RingAddresses { descriptors, available, used });
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.vring(index)?.set_base(base).map_err(refused)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let next_avail = self.vring(index)?.stop();
        self.reset = true;
        self.kicks_changed = true;
        Ok(VhostUserVringState::new(index, u32::from(next_avail)))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(u32::from(index))?.set_kick(file);
        self.kicks_changed = true;
        self.start(u32::from(index))
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(u32::from(index))?.set_call(file);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _file: Option<File>) -> Result<()> {
        self.vring(u32::from(index)).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::REPLY_ACK)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let offered = self.get_protocol_features()?.bits();
        if features & !offered == 0 { Ok(()) } else { Err(Error::InvalidParam) }
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(QUEUES as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.vring(index)?.set_enabled(enable);
        self.start(index)
    }

    /// virtio 1.2 §5.10.4: the guest's address.
    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let space = self.config_space();
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        range
            .and_then(|(offset, size)| space.get(offset..offset.checked_add(size)?))
            .map(<[u8]>::to_vec)
            .ok_or(Error::InvalidParam)
    }

    /// The configuration space is read-only: the write is ignored, as a device would.
    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Ok(())
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(unsupported())
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(unsupported())
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(unsupported())
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(unsupported())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(unsupported())
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        Err(unsupported())
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(unsupported())
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(unsupported())
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(unsupported())
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(unsupported())
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(unsupported())
    }
}

#[cfg(test)]
mod tests;
