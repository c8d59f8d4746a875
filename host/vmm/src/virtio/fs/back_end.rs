//! The back end's end of a socket: vhost-user requests and their replies, "Vhost-user Protocol" of
//! the QEMU documentation. Knows no device.
//!
//! Messages are crate vhost's; the exchange is not: its front end waits for ever where a back end
//! hangs. Here requests that belong together have a deadline, and after the first that failed there
//! are no others.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, recv, sendmsg, setsockopt, shutdown};
use nix::sys::time::{TimeVal, TimeValLike};
use vhost::vhost_user::message::{
    FrontendReq, VhostUserHeaderFlag, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserProtocolFeatures, VhostUserU64, VhostUserVirtioFeatures, VhostUserVringAddr,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vm_memory::{Address, ByteValued, FileOffset, GuestMemoryBackend, GuestMemoryRegion};

use crate::Memory;

/// How long a back end may take for all requests from one [`BackEnd::begin`] to the next. It ends
/// what it does for the guest before it stops a queue.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a message before its body: request, flags, length of the body.
const HEADER_LEN: usize = 12;
/// The version of the protocol, in the flags.
const VERSION: u32 = 1;
/// The most regions of a memory table.
const MAX_REGIONS: usize = 8;

/// Memory that is contiguous for the guest and in the file.
struct Part<'a> {
    addr: u64,
    len: u64,
    file: &'a FileOffset,
}

/// The memory that is there, neighbours together. `None` if some of it has no file.
fn contiguous(memory: &Memory) -> Option<Vec<Part<'_>>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    for region in memory.iter() {
        let (addr, len) = (region.start_addr().raw_value(), region.len());
        let file = region.file_offset()?;
        match parts.last_mut() {
            Some(last)
                if last.addr + last.len == addr
                    && last.file.start() + last.len == file.start()
                    && Arc::ptr_eq(last.file.arc(), file.arc()) =>
            {
                last.len += len;
            }
            _ => parts.push(Part { addr, len, file }),
        }
    }
    Some(parts)
}

/// Why a back end is given up. `request` is the number of the one that it happened at.
#[derive(Debug, thiserror::Error)]
pub enum BackEndError {
    /// It closed the socket.
    #[error("vhost-user request {request}: the back end is gone")]
    Gone {
        /// See the enum.
        request: u32,
    },
    /// It did not reply in time.
    #[error("vhost-user request {request}: no reply within {} s", DEADLINE.as_secs())]
    Hangs {
        /// See the enum.
        request: u32,
    },
    /// Its reply is none.
    #[error("vhost-user request {request}: the reply makes no sense")]
    Nonsense {
        /// See the enum.
        request: u32,
    },
    /// It said no.
    #[error("vhost-user request {request}: refused by the back end")]
    Refused {
        /// See the enum.
        request: u32,
    },
    /// It cannot do what is needed.
    #[error("use the vhost-user back end: it has no {what}")]
    Lacks {
        /// For people.
        what: &'static str,
    },
    /// Guest memory is not what another process can map.
    #[error("share guest memory: {regions} regions, each of a file, are needed")]
    Memory {
        /// The most.
        regions: usize,
    },
    /// Of the socket.
    #[error("vhost-user request {request}")]
    Socket {
        /// See the enum.
        request: u32,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Where the rings of a queue are, by guest addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vring {
    /// Its index.
    pub index: u8,
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// A connection to a back end.
#[derive(Debug)]
pub struct BackEnd {
    socket: OwnedFd,
    deadline: Duration,
    /// The end of it.
    until: Instant,
}

impl BackEnd {
    /// On a connected socket, which the kernel is told of the deadline: no thread that calls the
    /// back end needs more than to send and to receive. Nothing is said yet.
    ///
    /// # Errors
    /// [`BackEndError::Socket`]: the descriptor is no socket.
    pub fn new(socket: OwnedFd, deadline: Duration) -> Result<Self, BackEndError> {
        let failed = |source| BackEndError::Socket { request: 0, source };
        let micros = i64::try_from(deadline.as_micros()).unwrap_or(i64::MAX);
        let flags = fcntl(&socket, FcntlArg::F_GETFL).map_err(failed)?;
        let blocking = OFlag::from_bits_retain(flags) & !OFlag::O_NONBLOCK;
        fcntl(&socket, FcntlArg::F_SETFL(blocking)).map_err(failed)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::microseconds(micros)).map_err(failed)?;
        Ok(Self { socket, deadline, until: Instant::now() + deadline })
    }

    /// What is asked from now on has one deadline: whoever takes just not too long for each of many
    /// requests would hold a processor for minutes. The last reply may take as long once more.
    pub fn begin(&mut self) {
        self.until = Instant::now() + self.deadline;
    }

    /// Begins: the virtio features that it has, once it has shown that it can serve `queues`.
    ///
    /// # Errors
    /// [`BackEndError`].
    pub fn open(&self, queues: u64) -> Result<u64, BackEndError> {
        let lacks = |what| BackEndError::Lacks { what };
        let features = self.get(FrontendReq::GET_FEATURES)?;
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            return Err(lacks("protocol features"));
        }
        let known = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let protocol = self.get(FrontendReq::GET_PROTOCOL_FEATURES)? & known.bits();
        let protocol = VhostUserProtocolFeatures::from_bits_truncate(protocol);
        // Without it there is no knowing whether a request was refused.
        if !protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            return Err(lacks("acknowledgements (REPLY_ACK)"));
        }
        let body = VhostUserU64::new(protocol.bits());
        self.send(FrontendReq::SET_PROTOCOL_FEATURES, 0, body.as_slice(), &[])?;
        if protocol.contains(VhostUserProtocolFeatures::MQ)
            && self.get(FrontendReq::GET_QUEUE_NUM)? < queues
        {
            return Err(lacks("as many queues as the device"));
        }
        self.set(FrontendReq::SET_OWNER, &[], &[])?;
        Ok(features)
    }

    /// What was agreed on with the driver.
    ///
    /// # Errors
    /// [`BackEndError`].
    pub fn set_features(&self, features: u64) -> Result<(), BackEndError> {
        let features = features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.set(FrontendReq::SET_FEATURES, VhostUserU64::new(features).as_slice(), &[])
    }

    /// Shares the guest memory that is there. The front end's addresses in it, by which it names
    /// rings, are said to be the guest's: where this process has it is nobody's business.
    ///
    /// # Errors
    /// [`BackEndError`].
    pub fn set_memory(&self, memory: &Memory) -> Result<(), BackEndError> {
        let unshared = || BackEndError::Memory { regions: MAX_REGIONS };
        let parts = contiguous(memory).filter(|parts| parts.len() <= MAX_REGIONS);
        let parts = parts.ok_or_else(unshared)?;
        let count = u32::try_from(parts.len()).map_err(|_| unshared())?;
        let mut body = VhostUserMemory::new(count).as_slice().to_vec();
        let mut files = Vec::with_capacity(parts.len());
        for Part { addr, len, file } in parts {
            let region = VhostUserMemoryRegion::new(addr, len, addr, file.start());
            body.extend_from_slice(region.as_slice());
            files.push(file.file().as_fd());
        }
        self.set(FrontendReq::SET_MEM_TABLE, &body, &files)
    }

    /// Starts a queue, which the guest tells of buffers by `kick` and which tells the guest by
    /// `call`.
    ///
    /// # Errors
    /// [`BackEndError`].
    pub fn start(
        &self,
        vring: &Vring,
        kick: BorrowedFd<'_>,
        call: BorrowedFd<'_>,
    ) -> Result<(), BackEndError> {
        let index = u32::from(vring.index);
        let state = |number: u32| VhostUserVringState::new(index, number);
        let addresses = VhostUserVringAddr::new(
            index,
            VhostUserVringAddrFlags::empty(),
            vring.descriptors,
            vring.used,
            vring.available,
            0,
        );
        // Bits 0 to 7 are the index; without bit 8 there is a descriptor.
        let descriptor = VhostUserU64::new(u64::from(vring.index));
        let size = state(u32::from(vring.size));
        self.set(FrontendReq::SET_VRING_NUM, size.as_slice(), &[])?;
        self.set(FrontendReq::SET_VRING_BASE, state(0).as_slice(), &[])?;
        self.set(FrontendReq::SET_VRING_ADDR, addresses.as_slice(), &[])?;
        self.set(FrontendReq::SET_VRING_CALL, descriptor.as_slice(), &[call])?;
        self.set(FrontendReq::SET_VRING_KICK, descriptor.as_slice(), &[kick])?;
        self.set(FrontendReq::SET_VRING_ENABLE, state(1).as_slice(), &[])
    }

    /// Stops a queue: the back end does not touch it, nor the memory that it names, when this
    /// returns.
    ///
    /// # Errors
    /// [`BackEndError`].
    pub fn stop(&self, index: u8) -> Result<(), BackEndError> {
        let state = VhostUserVringState::new(u32::from(index), 0);
        let request = FrontendReq::GET_VRING_BASE;
        self.send(request, 0, state.as_slice(), &[])?;
        let [same, ..]: [u32; 2] = self.reply::<8>(request).map(words)?;
        if same != u32::from(index) {
            return Err(BackEndError::Nonsense { request: request.into() });
        }
        Ok(())
    }

    /// Whether it is there, and silent, as it is to be when nothing was asked.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        recv(self.socket.as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
    }

    /// Ends the connection.
    pub fn close(&self) {
        // It may be closed already.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    fn get(&self, request: FrontendReq) -> Result<u64, BackEndError> {
        self.send(request, 0, &[], &[])?;
        self.reply(request).map(u64::from_le_bytes)
    }

    fn set(
        &self,
        request: FrontendReq,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<(), BackEndError> {
        self.send(request, VhostUserHeaderFlag::NEED_REPLY.bits(), body, files)?;
        match self.reply(request).map(u64::from_le_bytes)? {
            0 => Ok(()),
            _ => Err(BackEndError::Refused { request: request.into() }),
        }
    }

    fn send(
        &self,
        request: FrontendReq,
        flags: u32,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<(), BackEndError> {
        let number: u32 = request.into();
        let failed = |source| match source {
            Errno::EPIPE | Errno::ECONNRESET => BackEndError::Gone { request: number },
            // A socket full of what it did not read.
            Errno::EAGAIN => BackEndError::Hangs { request: number },
            source => BackEndError::Socket { request: number, source },
        };
        let len = u32::try_from(body.len()).map_err(|_| failed(Errno::EMSGSIZE))?;
        let header = [number, flags | VERSION, len].map(u32::to_le_bytes).concat();
        let pieces = [IoSlice::new(&header), IoSlice::new(body)];
        let descriptors: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let control = if files.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let sent = sendmsg::<()>(self.socket.as_raw_fd(), &pieces, control, flags, None);
        if sent.map_err(failed)? == HEADER_LEN + body.len() {
            Ok(())
        } else {
            Err(failed(Errno::EAGAIN))
        }
    }

    /// The reply's body, of just as many bytes.
    fn reply<const N: usize>(&self, request: FrontendReq) -> Result<[u8; N], BackEndError> {
        let number: u32 = request.into();
        let mut reply = vec![0; HEADER_LEN + N];
        let len = self.read(number, &mut reply)?;
        let (header, body) = reply.split_first_chunk::<HEADER_LEN>().expect("made as long");
        let [name, flags, body_len] = words(*header);
        let whole_header = len >= HEADER_LEN;
        // Back ends repeat the request's flags, or do not.
        let flags = flags & !VhostUserHeaderFlag::NEED_REPLY.bits();
        let expected = flags == VhostUserHeaderFlag::REPLY.bits() | VERSION && name == number;
        if whole_header && (!expected || usize::try_from(body_len) != Ok(N)) {
            return Err(BackEndError::Nonsense { request: number });
        }
        let body = <[u8; N]>::try_from(body).ok().filter(|_| len == reply.len());
        body.ok_or(BackEndError::Hangs { request: number })
    }

    /// Fills the buffer, or as much of it as came in time.
    fn read(&self, request: u32, buffer: &mut [u8]) -> Result<usize, BackEndError> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            // Late, too, what is there is read: it may be this process that did not run.
            let late = Instant::now() >= self.until;
            let flags = if late { MsgFlags::MSG_DONTWAIT } else { MsgFlags::MSG_WAITALL };
            match recv(self.socket.as_raw_fd(), rest, flags) {
                Ok(0) | Err(Errno::ECONNRESET) => return Err(BackEndError::Gone { request }),
                Ok(len) => done += len,
                // The socket's own deadline, or ours.
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(source) => return Err(BackEndError::Socket { request, source }),
            }
        }
        Ok(done)
    }
}

impl AsFd for BackEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Numbers of the machine's order, which is the protocol's.
fn words<const BYTES: usize, const WORDS: usize>(bytes: [u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == 4 * WORDS) };
    let (chunks, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|at| u32::from_le_bytes(chunks[at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Ram, Size};

    #[test]
    fn memory_that_is_there_is_shared_and_neighbours_are_one() {
        let ram = Ram::create_on_host(Size { mib: 64, hotplug_mib: 300 }, 364).unwrap();
        let hotplug = ram.hotplug().unwrap();
        let places = || -> Vec<(u64, u64, u64)> {
            let parts = contiguous(ram.guest()).unwrap().into_iter();
            parts.map(|part| (part.addr, part.len >> 20, part.file.start() >> 20)).collect()
        };
        let start = hotplug.region().guest_addr;
        for (there_mib, more) in [(0, None), (128, Some(128)), (256, Some(256)), (300, Some(300))] {
            hotplug.set_there_len(there_mib << 20);
            let more = more.map(|mib| (start, mib, 64));
            let expected: Vec<_> = [Some((0, 64, 0)), more].into_iter().flatten().collect();
            assert_eq!(places(), expected);
        }
    }

    #[test]
    fn memory_without_a_file_cannot_be_shared() {
        let ranges = [(vm_memory::GuestAddress(0), 4096)];
        assert!(contiguous(&Memory::from_ranges(&ranges).unwrap()).is_none());
    }
}
