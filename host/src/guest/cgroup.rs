//! Calls of the agent about a container's cgroup: stop it, limit it, count what it uses.

use husk_protocols::agent as wire;
use husk_protocols::id::ContainerId;
use serde::{Deserialize, Serialize};

use super::{Agent, AgentError};

/// What a container has used up to now, and what it may.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Memory, without the files that the kernel could drop at once.
    pub memory_bytes: u64,
    /// Most of it; the guest's whole memory where nothing is set.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Read from its disks.
    pub read_bytes: u64,
    /// Written to them.
    pub written_bytes: u64,
    /// Received on its interfaces, loopback apart.
    pub received_bytes: u64,
    /// Sent on them.
    pub sent_bytes: u64,
}

/// A process of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// As the container counts.
    pub pid: u32,
    /// Of its program.
    pub name: String,
}

impl Agent {
    /// Stops a container's processes where they are.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn pause(&self, id: &ContainerId) -> Result<(), AgentError> {
        let request = wire::PauseRequest { id: id.to_string(), ..Default::default() };
        self.containers.pause(self.call(), &request).await?;
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn resume(&self, id: &ContainerId) -> Result<(), AgentError> {
        let request = wire::ResumeRequest { id: id.to_string(), ..Default::default() };
        self.containers.resume(self.call(), &request).await?;
        Ok(())
    }

    /// Changes limits. `resources` is `linux.resources` of the runtime-spec.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn update(&self, id: &ContainerId, resources: Vec<u8>) -> Result<(), AgentError> {
        let request = wire::UpdateRequest { id: id.to_string(), resources, ..Default::default() };
        self.containers.update(self.call(), &request).await?;
        Ok(())
    }

    /// What a container has used.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn usage(&self, id: &ContainerId) -> Result<Usage, AgentError> {
        let request = wire::StatsRequest { id: id.to_string(), ..Default::default() };
        let stats = self.containers.stats(self.call(), &request).await?;
        let mut usage = read(&stats);
        if usage.memory_limit_bytes == 0 {
            usage.memory_limit_bytes = self.info().await?.memory_total_bytes;
        }
        Ok(usage)
    }

    /// All processes of a container.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn processes(&self, id: &ContainerId) -> Result<Vec<ProcessInfo>, AgentError> {
        let request = wire::TopRequest { container_id: id.to_string(), ..Default::default() };
        let answer = self.processes.top(self.call(), &request).await?;
        let process =
            |found: wire::ProcessStatus| ProcessInfo { pid: found.pid_inside, name: found.name };
        Ok(answer.processes.into_iter().map(process).collect())
    }
}

/// Numbers of a guest are its own word: added up without ever overflowing.
fn read(stats: &wire::StatsResponse) -> Usage {
    let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::saturating_add);
    let memory = &stats.memory;
    let droppable = memory.details.get("inactive_file").copied().unwrap_or_default();
    let outside = || stats.interfaces.iter().filter(|interface| interface.name != "lo");
    Usage {
        cpu_us: stats.cpu.usage_us,
        memory_bytes: memory.current_bytes.saturating_sub(droppable),
        memory_limit_bytes: memory.limit_bytes.unwrap_or_default(),
        pids: stats.pids.current,
        read_bytes: sum(&mut stats.io.iter().map(|disk| disk.read_bytes)),
        written_bytes: sum(&mut stats.io.iter().map(|disk| disk.written_bytes)),
        received_bytes: sum(&mut outside().map(|interface| interface.received.bytes)),
        sent_bytes: sum(&mut outside().map(|interface| interface.sent.bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_hostile_guest_do_not_overflow() {
        let disk = || wire::IoStats { read_bytes: u64::MAX, ..Default::default() };
        let stats = wire::StatsResponse { io: vec![disk(), disk()], ..Default::default() };
        assert_eq!(read(&stats).read_bytes, u64::MAX);
    }
}
