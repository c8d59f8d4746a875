//! How a VMM ends, and what its exit status says of it.

use std::fmt;

use super::chain;
use crate::control::ControlError;
use crate::machine::Exit;

/// There was no machine: the configuration, a file or the host is not as it has to be.
pub const EXIT_REFUSED: u8 = 125;
/// The guest crashed in a way that no kernel means to: a triple fault, mostly.
pub const EXIT_GUEST: u8 = 10;
/// KVM could not go on.
pub const EXIT_KVM: u8 = 11;
/// The monitor went, or made no sense.
pub const EXIT_DESERTED: u8 = 12;

/// See the module.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Machine(Exit),
    /// It was asked to.
    Stopped,
    /// There is nobody to work for.
    Deserted(ControlError),
}

impl End {
    /// 0 when the guest or the monitor wished it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Machine(Exit::Shutdown | Exit::Reset) | Self::Stopped => 0,
            Self::Machine(Exit::Crash | Exit::TripleFault) => EXIT_GUEST,
            Self::Machine(_) => EXIT_KVM,
            Self::Deserted(_) => EXIT_DESERTED,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(exit) => exit.fmt(f),
            Self::Stopped => f.write_str("stopped by the monitor"),
            Self::Deserted(error) => f.write_str(&chain(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_wished_for_is_success() {
        for end in [End::Machine(Exit::Shutdown), End::Machine(Exit::Reset), End::Stopped] {
            assert_eq!(end.status(), 0, "{end}");
        }
        for (end, status) in [
            (End::Machine(Exit::TripleFault), EXIT_GUEST),
            (End::Machine(Exit::RunFailed { errno: 14 }), EXIT_KVM),
            (End::Deserted(ControlError::Gone), EXIT_DESERTED),
        ] {
            assert_eq!(end.status(), status, "{end}");
            assert_eq!(end.to_string().lines().count(), 1, "{end}");
        }
    }
}
