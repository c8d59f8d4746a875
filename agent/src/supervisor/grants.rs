//! What only the guest's root can give to a process in a user namespace: hard limits above the
//! present ones, a lower OOM score, policies and priorities, the standard streams, which are the
//! agent's own, and its cgroup. Given while the process waits to be started.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, chown},
    },
    sync::Arc,
};

use nix::{errno::Errno, unistd::Pid};

use super::{Result, SupervisorError, assets::blocking};
use crate::{
    cgroup::Cgroup,
    container::{
        link::Failure,
        plan::{Limit, ProcessPlan, Scheduling},
        scheduling,
    },
    sys,
};

/// Taken from a process's plan, so that the second stage does not try.
#[derive(Debug)]
pub struct Grants {
    limits: Vec<Limit>,
    oom_score_adj: Option<i32>,
    scheduling: Scheduling,
    cgroup: Option<Arc<Cgroup>>,
}

impl Grants {
    /// Takes them out of the plan.
    #[must_use]
    pub fn take(process: &mut ProcessPlan) -> Self {
        Self {
            limits: std::mem::take(&mut process.limits),
            oom_score_adj: process.oom_score_adj.take(),
            scheduling: process.scheduling.take_privileged(),
            cgroup: None,
        }
    }

    /// And this cgroup, which the process can write to.
    #[must_use]
    pub fn with_cgroup(self, cgroup: Option<Arc<Cgroup>>) -> Self {
        Self { cgroup, ..self }
    }

    /// Gives them to a process that has its final user and waits.
    ///
    /// # Errors
    /// [`SupervisorError`]; the process is to be killed then.
    pub async fn give(self, pid: Pid, pidfd: Arc<OwnedFd>) -> Result<()> {
        blocking(move || {
            let user = self
                .give_to(pid, &pidfd)
                .map_err(SupervisorError::step("grant what the spec asks"))?;
            scheduling::set(pid, &self.scheduling).map_err(|error| Failure::from(&error))?;
            self.cgroup.map_or(Ok(()), |cgroup| cgroup.delegate(user)).map_err(Into::into)
        })
        .await?
    }

    /// Says who the process is in the guest.
    fn give_to(&self, pid: Pid, pidfd: &OwnedFd) -> std::io::Result<u32> {
        // The pid is another's once this one has been reaped.
        sys::process::send_signal(pidfd.as_fd(), 0)?;
        for limit in &self.limits {
            sys::process::set_limit_of(pid, limit.resource, limit.soft, limit.hard)?;
        }
        if let Some(score) = self.oom_score_adj {
            fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())?;
        }
        let user =
            user_of(&fs::read_to_string(format!("/proc/{pid}/status"))?).ok_or(Errno::ESRCH)?;
        for number in 0..3 {
            let stream = format!("/proc/{pid}/fd/{number}");
            // A pipe is the agent's; a terminal is the container's own, and /dev/null everybody's.
            if fs::metadata(&stream)?.file_type().is_fifo() {
                chown(&stream, Some(user), None)?;
            }
        }
        Ok(user)
    }
}

/// The effective user of a process, as the guest knows it: proc_pid_status(5).
fn user_of(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_of_a_process_is_the_effective_one() {
        assert_eq!(user_of("Name:\tsh\nUid:\t1\t100000\t3\t4\nGid:\t0\n"), Some(100_000));
        assert_eq!(user_of("Name:\tsh\n"), None);
    }
}
