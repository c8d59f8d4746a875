//! What handlers make of a message before they ask the supervisor, from its bytes on.

use husk_protocols::agent;
use protobuf::Message;

use super::decode;
use crate::{
    cgroup::Update,
    guest,
    supervisor::{CreateOrder, ExecOrder},
};

/// Reads the bytes as the request of a call.
pub fn decode(call: u8, bytes: &[u8]) {
    // Every outcome is right that is one.
    let _ = match call % 26 {
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
        8 => read(bytes, |request: &agent::PauseRequest| container(&request.id)),
        9 => read(bytes, |request: &agent::ResumeRequest| container(&request.id)),
        10 => update(bytes),
        11 => read(bytes, |request: &agent::StatsRequest| container(&request.id)),
        12 => read(bytes, |_: &agent::EventsRequest| Ok(())),
        13 => read(bytes, |request: &agent::TopRequest| container(&request.container_id)),
        other => guest_or_files(other, bytes),
    };
}

fn guest_or_files(call: u8, bytes: &[u8]) -> Option<ttrpc::Result<()>> {
    match call {
        14 => read(bytes, |request: &agent::SetHostnameRequest| {
            let _ = guest::check_hostname(&request.hostname);
            Ok(())
        }),
        15 => read(bytes, |request: &agent::WriteFilesRequest| {
            files(&request.files);
            Ok(())
        }),
        16 => read(bytes, |request: &agent::SetDnsRequest| {
            let _ = decode::dns(request.clone()).file();
            Ok(())
        }),
        17 => read(bytes, |request: &agent::SetHostsRequest| {
            let _ = guest::hosts(&decode::hosts(request.clone()));
            Ok(())
        }),
        18 => read(bytes, |_: &agent::SetOnlineCpusRequest| Ok(())),
        19 => read(bytes, |_: &agent::SetClockRequest| Ok(())),
        20 => read(bytes, |_: &agent::ReseedRequest| Ok(())),
        21 => read(bytes, |request: &agent::LogsRequest| {
            decode::token(request.stream)?;
            decode::level(request.level).map(drop)
        }),
        22 => read(bytes, |request: &agent::StatRequest| container(&request.container_id)),
        23 => read(bytes, |request: &agent::CopyOutRequest| {
            container(&request.container_id)?;
            decode::token(request.stream).map(drop)
        }),
        24 => read(bytes, |request: &agent::CopyInRequest| {
            container(&request.container_id)?;
            decode::token(request.stream).map(drop)
        }),
        _ => read(bytes, |request: &agent::SetupRequest| {
            files(&request.files);
            let _ = decode::sysctls(&request.sysctls);
            Ok(())
        }),
    }
}

fn files(files: &[agent::File]) {
    for file in files {
        let _ = decode::host_file(file.clone()).check();
    }
}

fn update(bytes: &[u8]) -> Option<ttrpc::Result<()>> {
    read(bytes, |request: &agent::UpdateRequest| {
        container(&request.id)?;
        let _ = Update::read(&request.resources);
        Ok(())
    })
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
