//! `Guest`.

use std::time::Duration;

use async_trait::async_trait;
use husk_protocols::{
    agent::{
        Empty, LogsRequest, MetricsResponse, OnlineCpusResponse, ReseedRequest, SetClockRequest,
        SetClockResponse, SetDnsRequest, SetHostnameRequest, SetHostsRequest, SetOnlineCpusRequest,
        WriteFilesRequest,
    },
    agent_ttrpc::Guest,
};
use ttrpc::r#async::TtrpcContext;

use super::{blocking, decode, encode};
use crate::{
    guest::{self, Follower},
    stdio::Streams,
    supervisor::{Supervisor, SupervisorError},
};

/// The service.
pub struct Service {
    pub supervisor: Supervisor,
    pub streams: Streams,
}

#[async_trait]
impl Guest for Service {
    async fn set_hostname(
        &self,
        _: &TtrpcContext,
        request: SetHostnameRequest,
    ) -> ttrpc::Result<Empty> {
        encode(blocking(move || guest::set_hostname(&request.hostname)).await)?;
        Ok(Empty::default())
    }

    async fn write_files(
        &self,
        _: &TtrpcContext,
        request: WriteFilesRequest,
    ) -> ttrpc::Result<Empty> {
        let files: Vec<_> = request.files.into_iter().map(decode::host_file).collect();
        encode(blocking(move || files.iter().try_for_each(guest::HostFile::write)).await)?;
        Ok(Empty::default())
    }

    async fn set_dns(&self, _: &TtrpcContext, request: SetDnsRequest) -> ttrpc::Result<Empty> {
        let dns = decode::dns(request);
        encode(blocking(move || dns.file()?.write()).await)?;
        Ok(Empty::default())
    }

    async fn set_hosts(&self, _: &TtrpcContext, request: SetHostsRequest) -> ttrpc::Result<Empty> {
        let entries = decode::hosts(request);
        encode(blocking(move || guest::hosts(&entries)?.write()).await)?;
        Ok(Empty::default())
    }

    async fn set_online_cpus(
        &self,
        _: &TtrpcContext,
        request: SetOnlineCpusRequest,
    ) -> ttrpc::Result<OnlineCpusResponse> {
        let cpus = encode(blocking(move || guest::set_online(request.online)).await)?;
        Ok(OnlineCpusResponse { online: cpus.online, present: cpus.present, ..Default::default() })
    }

    async fn set_clock(
        &self,
        _: &TtrpcContext,
        request: SetClockRequest,
    ) -> ttrpc::Result<SetClockResponse> {
        // Without a wait for a thread: each moment is a part of the difference.
        let result = guest::correct(Duration::from_nanos(request.wall_clock_ns));
        let correction = encode(result.map_err(SupervisorError::from))?;
        Ok(SetClockResponse {
            ahead_ns: correction.ahead_ns,
            stepped: correction.stepped,
            ..Default::default()
        })
    }

    async fn reseed(&self, _: &TtrpcContext, request: ReseedRequest) -> ttrpc::Result<Empty> {
        encode(blocking(move || guest::reseed(&request.seed)).await)?;
        Ok(Empty::default())
    }

    async fn logs(&self, _: &TtrpcContext, request: LogsRequest) -> ttrpc::Result<Empty> {
        let token = decode::token(request.stream)?;
        let level = decode::level(request.level)?;
        let stream = self.streams.claim_single(token).await.map_err(SupervisorError::from);
        let stream = encode(stream)?;
        let follower = Follower::new(level, request.once).map_err(SupervisorError::from);
        tokio::spawn(encode(follower)?.send(stream));
        Ok(Empty::default())
    }

    async fn metrics(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<MetricsResponse> {
        let text = encode(self.supervisor.metrics().await)?;
        Ok(MetricsResponse { text, ..Default::default() })
    }
}
