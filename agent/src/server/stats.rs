//! What a container has used, and what has happened to it, as messages.

use husk_protocols::agent::{self, EventKind};

use crate::{
    cgroup::stats::{
        HugePageStats, InterfaceStats, IoStats, MemoryStats, Pressure, Stall, Stats, Traffic,
    },
    supervisor::{
        events::{Batch, Event, Happening},
        life::Member,
    },
};

/// Encodes a container's numbers.
pub fn stats(stats: Stats) -> agent::StatsResponse {
    let cpu = agent::CpuStats {
        usage_us: stats.cpu.usage_us,
        user_us: stats.cpu.user_us,
        system_us: stats.cpu.system_us,
        periods: stats.cpu.periods,
        throttled_periods: stats.cpu.throttled_periods,
        throttled_us: stats.cpu.throttled_us,
        ..Default::default()
    };
    let pids = agent::PidsStats {
        current: stats.pids.current,
        limit: stats.pids.limit,
        ..Default::default()
    };
    agent::StatsResponse {
        cpu: Some(cpu).into(),
        memory: Some(memory(stats.memory)).into(),
        pids: Some(pids).into(),
        io: stats.io.iter().map(io).collect(),
        huge_pages: stats.huge_pages.into_iter().map(huge_pages).collect(),
        cpu_pressure: stats.cpu_pressure.map(pressure).into(),
        memory_pressure: stats.memory_pressure.map(pressure).into(),
        io_pressure: stats.io_pressure.map(pressure).into(),
        interfaces: stats.interfaces.into_iter().map(interface).collect(),
        ..Default::default()
    }
}

fn memory(stats: MemoryStats) -> agent::MemoryStats {
    agent::MemoryStats {
        current_bytes: stats.current_bytes,
        peak_bytes: stats.peak_bytes,
        limit_bytes: stats.limit_bytes,
        swap_bytes: stats.swap_bytes,
        swap_limit_bytes: stats.swap_limit_bytes,
        details: stats.details.into_iter().collect(),
        low_events: stats.events.low,
        high_events: stats.events.high,
        max_events: stats.events.max,
        oom_events: stats.events.oom,
        oom_kills: stats.events.oom_kill,
        ..Default::default()
    }
}

fn io(stats: &IoStats) -> agent::IoStats {
    agent::IoStats {
        major: stats.major,
        minor: stats.minor,
        read_bytes: stats.read_bytes,
        written_bytes: stats.written_bytes,
        read_operations: stats.reads,
        write_operations: stats.writes,
        discarded_bytes: stats.discarded_bytes,
        discard_operations: stats.discards,
        ..Default::default()
    }
}

fn huge_pages(stats: HugePageStats) -> agent::HugePageStats {
    agent::HugePageStats {
        page_size: stats.page_size,
        current_bytes: stats.current_bytes,
        limit_bytes: stats.limit_bytes,
        failures: stats.failures,
        ..Default::default()
    }
}

fn pressure(pressure: Pressure) -> agent::Pressure {
    let stall = |stall: Stall| agent::Stall {
        last_10s_percent: stall.last_10s_percent,
        last_60s_percent: stall.last_60s_percent,
        last_300s_percent: stall.last_300s_percent,
        total_us: stall.total_us,
        ..Default::default()
    };
    agent::Pressure {
        some: Some(stall(pressure.some)).into(),
        full: Some(stall(pressure.full)).into(),
        ..Default::default()
    }
}

fn interface(stats: InterfaceStats) -> agent::InterfaceStats {
    let traffic = |traffic: Traffic| agent::Traffic {
        bytes: traffic.bytes,
        packets: traffic.packets,
        errors: traffic.errors,
        dropped: traffic.dropped,
        ..Default::default()
    };
    agent::InterfaceStats {
        name: stats.name,
        received: Some(traffic(stats.received)).into(),
        sent: Some(traffic(stats.sent)).into(),
        ..Default::default()
    }
}

/// Encodes events.
pub fn events(batch: Batch) -> agent::EventsResponse {
    agent::EventsResponse {
        events: batch.events.iter().map(event).collect(),
        lost: batch.lost,
        last: batch.last,
        ..Default::default()
    }
}

fn event(event: &Event) -> agent::Event {
    let kind = match event.happening {
        Happening::Created => EventKind::EVENT_KIND_CREATED,
        Happening::Started => EventKind::EVENT_KIND_STARTED,
        Happening::ExecStarted => EventKind::EVENT_KIND_EXEC_STARTED,
        Happening::Exited(_) => EventKind::EVENT_KIND_EXITED,
        Happening::Oom { .. } => EventKind::EVENT_KIND_OOM,
        Happening::Paused => EventKind::EVENT_KIND_PAUSED,
        Happening::Resumed => EventKind::EVENT_KIND_RESUMED,
        Happening::Updated => EventKind::EVENT_KIND_UPDATED,
        Happening::Deleted => EventKind::EVENT_KIND_DELETED,
    };
    let mut message = agent::Event {
        sequence: event.sequence,
        time_ns: u64::try_from(event.time.as_nanos()).unwrap_or(u64::MAX),
        container_id: event.container.to_string(),
        exec_id: event.exec.as_ref().map(ToString::to_string).unwrap_or_default(),
        kind: kind.into(),
        ..Default::default()
    };
    match event.happening {
        Happening::Exited(outcome) => {
            message.exit_code = outcome.exit_code;
            message.oom_killed = outcome.oom_killed;
        }
        Happening::Oom { kills } => message.oom_kills = kills,
        _ => {}
    }
    message
}

/// Encodes a process.
pub fn member(member: Member) -> agent::ProcessStatus {
    agent::ProcessStatus {
        pid: member.pid,
        pid_inside: member.pid_inside,
        name: member.name,
        ..Default::default()
    }
}
