//! From a container's record to a VM whose agent has announced itself.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use husk_protocols::handshake::Hello;
use husk_protocols::port::{ANNOUNCE_PORT, GUEST_CID, HOST_CID};
use husk_vmm::vsock::VsockHandle;
use tokio::task::JoinHandle;

use super::error::SandboxError;
use crate::engine::dirs::GuestImage;
use crate::engine::record::{HypervisorChoice, Resources};
use crate::engine::settings::Settings;
use crate::engine::store::Container;
use crate::guest::{Agent, greet};
use crate::hypervisor::{self, Disk, MACHINE_DEADLINE, Vm, VmConfig, VmError};
use crate::sys::fd;

/// Serial of the image's disk, as the agent finds it.
pub const IMAGE_SERIAL: &str = "image";
/// Serial of the writable layer's disk.
pub const DISK_SERIAL: &str = "disk";

/// How long the hello itself may take, once the connection is there.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How long a VM that went silent may take to end, so that its exit status is known: on a busy
/// machine a process that was killed is there for a while.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the guest needs beside the workload, MiB: kernel, agent, page cache to breathe.
const GUEST_OVERHEAD_MIB: u64 = 96;
const MIB: u64 = 1 << 20;

/// A VM whose agent answers.
pub struct Booted {
    pub vm: Box<dyn Vm>,
    pub agent: Agent,
    pub hello: Hello,
    /// When the VM process existed.
    pub started: Instant,
    /// When the agent had announced itself.
    pub announced: Instant,
}

/// Memory of the VM: the workload's, and the guest's own on top, of which page structures are a
/// sixty-fourth.
fn memory_mib(resources: &Resources) -> u32 {
    let workload = resources.workload_bytes().div_ceil(MIB);
    let with_overhead = workload.saturating_add(GUEST_OVERHEAD_MIB).saturating_add(workload / 32);
    u32::try_from(with_overhead).unwrap_or(u32::MAX)
}

/// The VM of a container, as the hypervisor is asked for it.
fn vm_config(container: &Container, guest: GuestImage) -> VmConfig {
    let config = &container.config;
    let image = Disk {
        serial: IMAGE_SERIAL.to_owned(),
        path: config.image.disk.clone(),
        read_only: true,
        disposable: false,
    };
    let layer = Disk {
        serial: DISK_SERIAL.to_owned(),
        path: container.dir.disk(),
        read_only: false,
        disposable: config.auto_remove,
    };
    VmConfig {
        kernel: guest.kernel,
        initramfs: guest.initramfs,
        kernel_args: config.surroundings.kernel_args.clone(),
        vcpus: config.resources.useful_cpus(),
        memory_mib: memory_mib(&config.resources),
        disks: vec![image, layer],
        guest_cid: GUEST_CID,
        host_cid: HOST_CID,
        console_log: container.dir.console_log(),
    }
}

/// Chooses a hypervisor, starts the VM and waits for its agent. `chosen` learns of the choice and
/// of the VM's pid as soon as they are known.
pub async fn boot(
    container: &Container,
    chosen: &mut (dyn FnMut(HypervisorChoice, i32) + Send),
) -> Result<Booted, SandboxError> {
    let settings = Settings::load()?;
    let guest = GuestImage::find(&settings)?;
    let deadline = settings.guest_deadline()?;
    let (hypervisor, verdict) = hypervisor::choose(container.config.hypervisor.parse()?)?;
    let mut vm = hypervisor.launch(&vm_config(container, guest))?;
    // Before the guest's first instruction, if the VMM can help it: it may be quick.
    let waiting = await_agent(vm.vsock().clone(), deadline);
    machine(&mut *vm).await?;
    let started = Instant::now();
    let choice = HypervisorChoice {
        name: verdict.hypervisor.to_owned(),
        accelerator: verdict.accelerator.to_string(),
        reason: verdict.reason,
        jail: vm.jail(),
    };
    chosen(choice, i32::try_from(vm.pid()).unwrap_or_default());
    let answer = tokio::select! {
        answer = announced(waiting, deadline) => answer,
        () = ended(&*vm) => Ok(None),
    };
    let (socket, hello) = match answer {
        Ok(Some(greeted)) => greeted,
        Ok(None) => {
            let silent = SandboxError::Silent { deadline, diagnosis: Box::new(vm.diagnose()) };
            return Err(explain(silent, &mut *vm).await);
        }
        Err(error) => return Err(explain(error, &mut *vm).await),
    };
    let announced = Instant::now();
    let agent = Agent::new(socket, deadline).map_err(SandboxError::io("talk to the agent"))?;
    Ok(Booted { vm, agent, hello, started, announced })
}

/// What went wrong in a guest: when its VM is going down, that is why.
pub async fn explain(error: SandboxError, vm: &mut dyn Vm) -> SandboxError {
    if !error.may_be_the_vms() {
        return error;
    }
    match tokio::time::timeout(LAST_WORDS, ended(vm)).await {
        Ok(()) => SandboxError::Died(Box::new(vm.diagnose())),
        Err(_) => error,
    }
}

/// Waits until a VM's machine is built.
async fn machine(vm: &mut dyn Vm) -> Result<(), VmError> {
    if let Some(fd) = vm.machine_fd() {
        // In vain: it is known below.
        let _ = tokio::time::timeout(MACHINE_DEADLINE, readable(fd)).await;
    }
    vm.await_machine(Duration::ZERO)
}

/// The agent's connection and hello; `None` when it never came.
type Announcement = Result<Option<(UnixStream, Hello)>, SandboxError>;

/// Listens for the agent, in a thread: that blocks for as long as a VMM does not answer, and ends
/// with the VMM.
fn await_agent(vsock: VsockHandle, deadline: Duration) -> JoinHandle<Announcement> {
    tokio::task::spawn_blocking(move || {
        let listener =
            vsock.listen(ANNOUNCE_PORT, 1).map_err(SandboxError::io("await the agent"))?;
        // An error here is the device going away with its VM, which then has more to say.
        let Ok(Some(socket)) = listener.accept(deadline) else { return Ok(None) };
        let hello = greet(&socket, HELLO_DEADLINE)?;
        Ok(Some((socket, hello)))
    })
}

/// What became of it.
async fn announced(waiting: JoinHandle<Announcement>, deadline: Duration) -> Announcement {
    match tokio::time::timeout(deadline + HELLO_DEADLINE, waiting).await {
        Ok(answer) => answer.expect("waiting does not panic"),
        Err(_) => Ok(None),
    }
}

/// Returns when a descriptor is readable that stays so.
async fn readable(descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
    let watched = fd::watch(descriptor.try_clone_to_owned()?)?;
    watched.readable().await?.retain_ready();
    Ok(())
}

/// Returns when the VM's process has ended.
pub async fn ended(vm: &dyn Vm) {
    if let Err(error) = readable(vm.exit_fd()).await {
        tracing::error!(%error, "the VM cannot be watched");
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_is_larger_than_its_workload() {
        let resources = Resources { memory_bytes: 256 * MIB, ..Resources::default() };
        assert_eq!(memory_mib(&resources), 256 + 96 + 8);
    }
}
