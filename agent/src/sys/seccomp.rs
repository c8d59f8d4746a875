//! seccomp(2): a filter for the calling process.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::Result;

/// linux/seccomp.h.
const SET_MODE_FILTER: libc::c_uint = 1;
const FILTER_FLAG_NEW_LISTENER: u32 = 1 << 3;
/// `struct sock_filter`, linux/filter.h.
const INSTRUCTION: usize = 8;

/// Whether a filter is loaded with a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listens {
    /// The kernel gives a descriptor for it.
    Yes,
    /// It has none.
    No,
}

/// A filter that is ready to be loaded.
pub struct Filter {
    instructions: Vec<libc::sock_filter>,
    flags: libc::c_uint,
    listens: Listens,
}

impl Filter {
    /// Takes a program of cBPF, eight little-endian bytes for each instruction.
    #[must_use]
    pub fn new(program: &[u8], flags: u32, listens: Listens) -> Self {
        let (instructions, _) = program.as_chunks::<INSTRUCTION>();
        let instructions = instructions
            .iter()
            .map(|&[a, b, jt, jf, e, f, g, h]| libc::sock_filter {
                code: u16::from_le_bytes([a, b]),
                jt,
                jf,
                k: u32::from_le_bytes([e, f, g, h]),
            })
            .collect();
        let listener = if listens == Listens::Yes { FILTER_FLAG_NEW_LISTENER } else { 0 };
        Self { instructions, flags: flags | listener, listens }
    }

    /// Loads it. Takes no memory and gives none back. Returns the listener.
    ///
    /// # Errors
    /// As seccomp(2): `EACCES` without no_new_privs and CAP_SYS_ADMIN, `EINVAL` for a program or a
    /// flag that the kernel does not take, `EBUSY` when there is a listener already.
    pub fn load(&self) -> Result<Option<OwnedFd>> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.instructions.len()).map_err(|_| Errno::E2BIG)?,
            filter: self.instructions.as_ptr().cast_mut(),
        };
        // SAFETY: length and pointer are those of a vector that outlives the call, which only reads
        // it.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, self.flags, &raw const program)
        };
        let number = Errno::result(result)?;
        if self.listens == Listens::No {
            return Ok(None);
        }
        let number = RawFd::try_from(number).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
    }
}
