//! `Containers`.

use std::time::Duration;

use async_trait::async_trait;
use husk_protocols::{
    agent::{
        ContainerStatus, CreateRequest, CreateResponse, DeleteRequest, Empty, EventsRequest,
        EventsResponse, ListResponse, PauseRequest, ResumeRequest, StartRequest,
        State as WireState, StatsRequest, StatsResponse, UpdateRequest,
    },
    agent_ttrpc::Containers,
};
use ttrpc::r#async::TtrpcContext;

use super::{decode, encode, stats};
use crate::{
    cgroup::Update,
    supervisor::{CreateOrder, State, Status, Supervisor, SupervisorError},
};

/// The service.
pub struct Service {
    pub supervisor: Supervisor,
}

fn wire_status(status: &Status) -> ContainerStatus {
    let state = match status.state {
        State::Created => WireState::STATE_CREATED,
        State::Running => WireState::STATE_RUNNING,
        State::Paused => WireState::STATE_PAUSED,
        State::Stopped => WireState::STATE_STOPPED,
    };
    ContainerStatus {
        id: status.id.to_string(),
        state: state.into(),
        pid: status.pid,
        ..Default::default()
    }
}

#[async_trait]
impl Containers for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateRequest,
    ) -> ttrpc::Result<CreateResponse> {
        let (tokens, terminal) = decode::streams(&request.streams);
        let id = decode::id(&request.id)?;
        let rootfs = decode::rootfs(&request)?;
        let order = CreateOrder::read(id, &request.spec, rootfs.as_ref(), tokens, terminal)
            .map_err(SupervisorError::from);
        let pid = encode(self.supervisor.create(encode(order)?).await)?;
        Ok(CreateResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<Empty> {
        encode(self.supervisor.run(decode::id(&request.id)?).await)?;
        Ok(Empty::default())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<Empty> {
        encode(self.supervisor.delete(decode::id(&request.id)?).await)?;
        Ok(Empty::default())
    }

    async fn list(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<ListResponse> {
        let list = encode(self.supervisor.list().await)?;
        let containers = list.iter().map(wire_status).collect();
        Ok(ListResponse { containers, ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        encode(self.supervisor.pause(decode::id(&request.id)?).await)?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        encode(self.supervisor.resume(decode::id(&request.id)?).await)?;
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateRequest) -> ttrpc::Result<Empty> {
        let id = decode::id(&request.id)?;
        let update = Update::read(&request.resources).map_err(SupervisorError::from);
        encode(self.supervisor.update(id, encode(update)?).await)?;
        Ok(Empty::default())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let gathered = encode(self.supervisor.stats(decode::id(&request.id)?).await)?;
        Ok(stats::stats(gathered))
    }

    async fn events(
        &self,
        _: &TtrpcContext,
        request: EventsRequest,
    ) -> ttrpc::Result<EventsResponse> {
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let wait = Duration::from_millis(request.wait_ms.into());
        let batch = encode(self.supervisor.events(request.after, limit, wait).await)?;
        Ok(stats::events(batch))
    }
}
