//! `Files`.

use async_trait::async_trait;
use husk_protocols::{
    agent::{CopyInRequest, CopyOutRequest, CopyResponse, StatRequest, StatResponse},
    agent_ttrpc::Files,
};
use ttrpc::r#async::TtrpcContext;

use super::{decode, encode};
use crate::{
    stdio::Streams,
    supervisor::{Copied, Owner, Supervisor},
};

/// The service.
pub struct Service {
    pub supervisor: Supervisor,
    pub streams: Streams,
}

fn response(copied: Copied) -> CopyResponse {
    CopyResponse { entries: copied.entries, bytes: copied.bytes, ..Default::default() }
}

#[async_trait]
impl Files for Service {
    async fn stat(&self, _: &TtrpcContext, request: StatRequest) -> ttrpc::Result<StatResponse> {
        let id = decode::id(&request.container_id)?;
        let status = encode(self.supervisor.stat(id, request.path.into()).await)?;
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Ok(StatResponse {
            name: text(status.name),
            size: status.size,
            mode: status.mode,
            mtime_s: status.mtime_s,
            link_target: status.link_target.map(text).unwrap_or_default(),
            uid: status.uid,
            gid: status.gid,
            ..Default::default()
        })
    }

    async fn copy_out(
        &self,
        _: &TtrpcContext,
        request: CopyOutRequest,
    ) -> ttrpc::Result<CopyResponse> {
        let id = decode::id(&request.container_id)?;
        let stream = (self.streams.clone(), decode::token(request.stream)?);
        let copied = self.supervisor.copy_out(id, request.path.into(), stream).await;
        Ok(response(encode(copied)?))
    }

    async fn copy_in(
        &self,
        _: &TtrpcContext,
        request: CopyInRequest,
    ) -> ttrpc::Result<CopyResponse> {
        let id = decode::id(&request.container_id)?;
        let stream = (self.streams.clone(), decode::token(request.stream)?);
        let owner = match request.keep_owner {
            true => Owner::Kept,
            false => Owner::Of { uid: request.uid, gid: request.gid },
        };
        let copied = self.supervisor.copy_in(id, request.path.into(), stream, owner).await;
        Ok(response(encode(copied)?))
    }
}
