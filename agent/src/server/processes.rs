//! `Processes`.

use async_trait::async_trait;
use husk_protocols::{
    agent::{
        Empty, ExecRequest, ExecResponse, SignalRequest, TopRequest, TopResponse, WaitRequest,
        WaitResponse,
    },
    agent_ttrpc::Processes,
};
use ttrpc::r#async::TtrpcContext;

use super::{decode, encode, stats};
use crate::supervisor::{ExecOrder, Recipients, Supervisor, SupervisorError};

/// The service.
pub struct Service {
    pub supervisor: Supervisor,
}

#[async_trait]
impl Processes for Service {
    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ExecResponse> {
        let (tokens, terminal) = decode::streams(&request.streams);
        let order = ExecOrder::read(
            decode::id(&request.container_id)?,
            decode::id(&request.exec_id)?,
            &request.process,
            tokens,
            terminal,
        )
        .map_err(SupervisorError::from);
        let pid = encode(self.supervisor.exec(encode(order)?).await)?;
        Ok(ExecResponse { pid, ..Default::default() })
    }

    async fn signal(&self, _: &TtrpcContext, request: SignalRequest) -> ttrpc::Result<Empty> {
        let key = decode::key(&request.container_id, &request.exec_id)?;
        let signal = decode::signal(request.signal)?;
        let to = if request.all { Recipients::All } else { Recipients::One };
        encode(self.supervisor.signal(key, signal, to).await)?;
        Ok(Empty::default())
    }

    async fn top(&self, _: &TtrpcContext, request: TopRequest) -> ttrpc::Result<TopResponse> {
        let members = encode(self.supervisor.processes(decode::id(&request.container_id)?).await)?;
        let processes = members.into_iter().map(stats::member).collect();
        Ok(TopResponse { processes, ..Default::default() })
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let key = decode::key(&request.container_id, &request.exec_id)?;
        let outcome = encode(self.supervisor.wait(key).await)?;
        Ok(WaitResponse {
            exit_code: outcome.exit_code,
            oom_killed: outcome.oom_killed,
            ..Default::default()
        })
    }
}
