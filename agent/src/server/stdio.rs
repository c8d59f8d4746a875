//! `Stdio`.

use async_trait::async_trait;
use husk_protocols::{
    agent::{CloseStdinRequest, Empty, ResizeRequest},
    agent_ttrpc::Stdio,
};
use ttrpc::r#async::TtrpcContext;

use super::{decode, encode};
use crate::supervisor::Supervisor;

/// The service.
pub struct Service {
    pub supervisor: Supervisor,
}

#[async_trait]
impl Stdio for Service {
    async fn resize(&self, _: &TtrpcContext, request: ResizeRequest) -> ttrpc::Result<Empty> {
        let key = decode::key(&request.container_id, &request.exec_id)?;
        let size = decode::window(request.rows, request.columns)?;
        encode(self.supervisor.resize(key, size).await)?;
        Ok(Empty::default())
    }

    async fn close_stdin(
        &self,
        _: &TtrpcContext,
        request: CloseStdinRequest,
    ) -> ttrpc::Result<Empty> {
        let key = decode::key(&request.container_id, &request.exec_id)?;
        encode(self.supervisor.close_stdin(key).await)?;
        Ok(Empty::default())
    }
}
