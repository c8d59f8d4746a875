//! Virtual machines by themselves: how soon a guest can speak, and what starting and ending one
//! costs before husk does anything in it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use husk::guest::{Agent, greet};
use husk::hypervisor::{Choice, Vm, VmConfig, choose_with};
use husk_protocols::port::{ANNOUNCE_PORT, GUEST_CID, HOST_CID};
use husk_tests::bed::husk_program;
use husk_tests::{Bed, guest};

use super::report::{Report, median, ratio};

/// Memory of a container's VM that has no limit, so that the kernel has the same to set up.
const MEMORY_MIB: u32 = 1152;
const DEADLINE: Duration = Duration::from_secs(60);

fn config(folder: &Path, log: PathBuf) -> VmConfig {
    VmConfig {
        kernel: folder.join("vmlinux"),
        initramfs: folder.join("initramfs.cpio"),
        kernel_args: Vec::new(),
        vcpus: 1,
        memory_mib: MEMORY_MIB,
        disks: Vec::new(),
        guest_cid: GUEST_CID,
        host_cid: HOST_CID,
        console_log: log,
    }
}

/// Starts a VM, and tells when.
fn start(bed: &Bed, folder: &Path) -> Result<(Instant, Box<dyn Vm>)> {
    let (hypervisor, _) = choose_with(Choice::Auto, &husk_program())?;
    let began = Instant::now();
    Ok((began, hypervisor.start(&config(folder, bed.path("console.log")))?))
}

/// A guest image with another init than the agent.
pub fn guest_with(bed: &Bed, inits: &Path, name: &str) -> Result<PathBuf> {
    let program = inits.join(name);
    let program = std::fs::read(&program).with_context(|| program.display().to_string())?;
    let folder = bed.path(name);
    guest::write(&folder, bed.guest(), &[("init", &program)])?;
    Ok(folder)
}

/// From the VM's start to its end, with an init that ends it at once.
pub fn floor(bed: &Bed, folder: &Path) -> Result<Duration> {
    let (began, mut vm) = start(bed, folder)?;
    loop {
        if vm.try_wait()?.is_some() {
            return Ok(began.elapsed());
        }
        if began.elapsed() > DEADLINE {
            bail!("the floor's VM does not end: {}", vm.diagnose());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// From the VM's start to a connection from its init.
fn announced(bed: &Bed, folder: &Path) -> Result<Duration> {
    let (began, mut vm) = start(bed, folder)?;
    let listener = vm.vsock().listen(ANNOUNCE_PORT, 1)?;
    match listener.accept(DEADLINE) {
        Ok(Some(_)) => Ok(began.elapsed()),
        _ => bail!("the guest says nothing: {}", vm.diagnose()),
    }
}

/// How much longer our agent takes to announce itself than a program that does nothing else.
pub fn readiness(bed: &Bed, inits: &Path, runs: usize, report: &mut Report) -> Result<()> {
    let trivial = guest_with(bed, inits, "vsock-init")?;
    let (mut agent_times, mut trivial_times) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        trivial_times.push(announced(bed, &trivial)?);
        agent_times.push(announced(bed, bed.guest())?);
    }
    let (agent, trivial) = (median(&agent_times), median(&trivial_times));
    report.time("VM start to a trivial init's connection", trivial);
    report.time("VM start to the agent's announcement", agent);
    report.add("agent over trivial init", ratio(agent, trivial), "x", Some(1.1));
    Ok(())
}

/// Resident memory of an agent that has just booted, bytes.
pub fn agent_resident(bed: &Bed) -> Result<u64> {
    let (_, vm) = start(bed, bed.guest())?;
    let listener = vm.vsock().listen(ANNOUNCE_PORT, 1)?;
    let socket = listener.accept(DEADLINE)?.context("the agent does not announce itself")?;
    greet(&socket, DEADLINE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Ok(Agent::new(socket, DEADLINE)?.info().await?.agent_resident_bytes) })
}
