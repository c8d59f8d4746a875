//! The one table from what can go wrong in the agent to ttrpc codes, and back.

use protobuf::Message;
use serde::{Deserialize, Serialize};
use ttrpc::{Code, Status};

use crate::agent::ErrorDetail;

const DETAIL_TYPE: &str = "husk.agent.v1.ErrorDetail";

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $number:literal => $code:ident,)*) => {
        /// What went wrong in the agent, as far as the host acts on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum ErrorKind { $($(#[$doc])* $kind,)* }

        impl ErrorKind {
            const ALL: &[ErrorKind] = &[$(ErrorKind::$kind,)*];

            fn number(self) -> u32 {
                match self { $(ErrorKind::$kind => $number,)* }
            }

            /// The ttrpc code that carries this kind.
            #[must_use]
            pub fn code(self) -> Code {
                match self { $(ErrorKind::$kind => Code::$code,)* }
            }
        }
    };
}

kinds! {
    /// The request or the spec makes no sense.
    Invalid = 1 => INVALID_ARGUMENT,
    /// The spec asks for what this agent does not do; the message names the field.
    Unsupported = 2 => UNIMPLEMENTED,
    /// No such container or process.
    NotFound = 3 => NOT_FOUND,
    /// The id is taken.
    AlreadyExists = 4 => ALREADY_EXISTS,
    /// The container is not in the state that the call needs.
    WrongState = 5 => FAILED_PRECONDITION,
    /// The command does not exist in the container (exit code 127).
    CommandNotFound = 6 => NOT_FOUND,
    /// The command exists and cannot be executed (exit code 126).
    CommandNotExecutable = 7 => PERMISSION_DENIED,
    /// Out of memory, processes, descriptors or space.
    Exhausted = 8 => RESOURCE_EXHAUSTED,
    /// Anything else; the message tells.
    Internal = 9 => INTERNAL,
}

/// Packs a kind and a message for the wire.
#[must_use]
pub fn to_ttrpc(kind: ErrorKind, message: String) -> ttrpc::Error {
    let detail = ErrorDetail { kind: kind.number(), ..Default::default() };
    let mut status = Status::new();
    status.set_code(kind.code());
    status.set_message(message);
    status.details.push(ttrpc::proto::Any {
        type_url: DETAIL_TYPE.to_owned(),
        value: detail.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    });
    ttrpc::Error::RpcStatus(status)
}

/// Reads kind and message back. A broken connection, or a status without a detail, is
/// [`ErrorKind::Internal`].
#[must_use]
pub fn from_ttrpc(error: &ttrpc::Error) -> (ErrorKind, String) {
    let ttrpc::Error::RpcStatus(status) = error else {
        return (ErrorKind::Internal, error.to_string());
    };
    let kind = status
        .details
        .iter()
        .find(|any| any.type_url == DETAIL_TYPE)
        .and_then(|any| ErrorDetail::parse_from_bytes(&any.value).ok())
        .and_then(|detail| ErrorKind::ALL.iter().find(|kind| kind.number() == detail.kind))
        .copied()
        .unwrap_or(ErrorKind::Internal);
    (kind, status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for &kind in ErrorKind::ALL {
            let error = to_ttrpc(kind, "why".to_owned());
            assert_eq!(from_ttrpc(&error), (kind, "why".to_owned()));
        }
    }

    #[test]
    fn status_without_detail_is_internal() {
        let error = ttrpc::Error::RpcStatus(ttrpc::get_status(Code::NOT_FOUND, "x"));
        assert_eq!(from_ttrpc(&error), (ErrorKind::Internal, "x".to_owned()));
    }
}
