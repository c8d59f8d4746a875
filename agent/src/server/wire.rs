//! What handlers make of a message before they ask the supervisor, from its bytes on.

use husk_protocols::agent;
use protobuf::Message;

use super::decode;
use crate::supervisor::{CreateOrder, ExecOrder};

/// Reads the bytes as the request of a call.
pub fn decode(call: u8, bytes: &[u8]) {
    // Every outcome is right that is one.
    let _ = match call % 9 {
        0 => create(bytes),
        1 => exec(bytes),
        2 => read(bytes, |request: &agent::StartRequest| container(&request.id)),
        3 => read(bytes, |request: &agent::DeleteRequest| container(&request.id)),
        4 => read(bytes, |request: &agent::SignalRequest| {
            decode::key(&request.container_id, &request.exec_id)?;
            decode::signal(request.signal).map(drop)
        }),
        5 => read(bytes, |request: &agent::WaitRequest| {
            decode::key(&request.container_id, &request.exec_id).map(drop)
        }),
        6 => read(bytes, |request: &agent::ResizeRequest| {
            decode::key(&request.container_id, &request.exec_id)?;
            decode::window(request.rows, request.columns).map(drop)
        }),
        7 => read(bytes, |request: &agent::CloseStdinRequest| {
            decode::key(&request.container_id, &request.exec_id).map(drop)
        }),
        _ => read(bytes, |_: &agent::SetupRequest| Ok(())),
    };
}

fn read<M: Message>(
    bytes: &[u8],
    check: impl FnOnce(&M) -> ttrpc::Result<()>,
) -> Option<ttrpc::Result<()>> {
    M::parse_from_bytes(bytes).ok().map(|message| check(&message))
}

fn container(id: &str) -> ttrpc::Result<()> {
    decode::id::<husk_protocols::id::ContainerId>(id).map(drop)
}

fn create(bytes: &[u8]) -> Option<ttrpc::Result<()>> {
    read(bytes, |request: &agent::CreateRequest| {
        let (tokens, terminal) = decode::streams(&request.streams);
        let rootfs = decode::rootfs(request)?;
        let id = decode::id(&request.id)?;
        // Handlers answer with the refusal.
        let _ = CreateOrder::read(id, &request.spec, rootfs.as_ref(), tokens, terminal);
        Ok(())
    })
}

fn exec(bytes: &[u8]) -> Option<ttrpc::Result<()>> {
    read(bytes, |request: &agent::ExecRequest| {
        let (tokens, terminal) = decode::streams(&request.streams);
        let (id, exec) = (decode::id(&request.container_id)?, decode::id(&request.exec_id)?);
        let _ = ExecOrder::read(id, exec, &request.process, tokens, terminal);
        Ok(())
    })
}
