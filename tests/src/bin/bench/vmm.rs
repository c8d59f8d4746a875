//! The built-in VMM with guests that have no kernel: how long until the first instruction, beside
//! QEMU on the same KVM; what its process takes; what goes through its devices. The guests measure
//! throughput themselves.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use husk_tests::Bed;
use husk_tests::bare_bed::{Accelerator, Guest, Setup, Size, open_kvm, run_in_qemu};
use husk_vmm::control::Request;

use super::report::{Report, median, ratio};

const DEADLINE: Duration = Duration::from_secs(300);
/// From exec of the VMM to the guest's first instruction.
const FIRST_INSTRUCTION_MS: f64 = 10.0;
/// Of QEMU's time for the same.
const FIRST_INSTRUCTION_RATIO: f64 = 1.0 / 3.0;
/// Of the VMM's process beside the guest's memory.
const OWN_MIB: f64 = 5.0;
/// Of monitor and VMM, without virtio-fs.
const HOST_SIDE_MIB: f64 = 20.0;
/// A processor that QEMU can make of any host's.
const QEMU_CPU: &str = "kvm64";
/// Through a device.
const MIB: u32 = 64;
const PORT: u32 = 5000;
const ACCEPT: Duration = Duration::from_secs(30);

/// All figures. None, and a word about it, without KVM.
pub fn figures(runs: usize, report: &mut Report) -> Result<()> {
    if let Err(reason) = open_kvm() {
        report.skip("the built-in VMM", &reason);
        return Ok(());
    }
    first_instruction(runs * 3, report)?;
    let own_mib = memory(report)?;
    host_side(own_mib, report).context("the host side of a container")?;
    disk(runs.min(3), report)?;
    stream("send", |mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())), report)?;
    stream("receive", give, report)
}

fn start(setup: &Setup) -> Result<Guest> {
    let kvm = open_kvm().map_err(anyhow::Error::msg)?;
    Guest::start(setup, kvm).with_context(|| format!("start the guest {}", setup.case))
}

fn bare(case: &str) -> Setup {
    Setup { rng: false, ..Setup::new(case) }
}

/// What the guest does first of all is to write a byte to a port. The time is that from before fork
/// and exec to when the byte was read, in both cases; QEMU's has its firmware in it.
///
/// On a machine whose processors others want, it is mostly the wait for them. `chrt -r 1 make bench
/// ONLY=vmm` goes before the others.
fn first_instruction(runs: usize, report: &mut Report) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let ended = start(&bare("hello"))?.finish(DEADLINE);
        ours.push(ended.first_byte.context("the guest wrote nothing")?);
        let accelerator = Accelerator::Kvm { cpu: QEMU_CPU };
        if let Some(in_qemu) = run_in_qemu(&bare("hello"), accelerator, |_| ())? {
            theirs.push(in_qemu.first_byte.context("the guest wrote nothing in QEMU")?);
        }
    }
    let name = "VMM: exec to the guest's first instruction";
    let least = ours.iter().copied().min().unwrap_or_default();
    let (ours, theirs) = (median(&ours), median(&theirs));
    report.add(name, ours.as_secs_f64() * 1000.0, "ms", Some(FIRST_INSTRUCTION_MS));
    // What it takes when nobody else wants the processors.
    report.time("  of all runs, the shortest", least);
    if !theirs.is_zero() {
        report.time("QEMU microvm: exec to the guest's first instruction", theirs);
        let limit = Some(FIRST_INSTRUCTION_RATIO);
        report.add(&format!("{name} / QEMU microvm"), ratio(ours, theirs), "", limit);
    }
    Ok(())
}

/// One processor, 128 MiB, one disk, vsock.
fn memory(report: &mut Report) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let size = Size { memory_mib: 128, ..Size::default() };
    let setup = Setup { size, vsock: true, ..Setup::new("hello linger=1") };
    let guest = start(&setup.disk(&folder, 64))?;
    guest.expect("PASSED", DEADLINE);
    let memory = guest.statistics().memory.context("the kernel does not tell PSS")?;
    guest.command(Request::Stop);
    let own = f64::from(u32::try_from(memory.own_kib)?) / 1024.0;
    report.add("VMM: memory beside the guest's (PSS)", own, "MiB", Some(OWN_MIB));
    Ok(own)
}

/// Monitor and VMM of a container. Where husk takes QEMU, the VMM's part is that of `vmm_mib`,
/// which a machine without a kernel took.
fn host_side(vmm_mib: f64, report: &mut Report) -> Result<()> {
    let bed = Bed::new();
    bed.start_sh("side", "sleep 1000");
    let husk = &bed.inspect("side")["Husk"];
    let monitor = husk["MonitorPid"].as_u64().context("no monitor")?;
    let hypervisor = husk["Hypervisor"]["Name"].as_str().unwrap_or("another").to_owned();
    let monitor_mib = own_mib(monitor)?;
    let (vmm_mib, whose) = match builtin_vmm_of(monitor)? {
        Some(vmm) => (own_mib(vmm)?, "one container's".to_owned()),
        None => (vmm_mib, format!("monitor of a container on {hypervisor}, and the VMM above")),
    };
    bed.husk(&["rm", "-f", "side"]).ok();
    report.add("monitor: memory (PSS)", monitor_mib, "MiB", None);
    let name = format!("host side of a container (PSS): {whose}");
    report.add(&name, monitor_mib + vmm_mib, "MiB", Some(HOST_SIDE_MIB));
    Ok(())
}

/// A child of a monitor that is the built-in VMM.
fn builtin_vmm_of(monitor: u64) -> Result<Option<u64>> {
    for thread in std::fs::read_dir(format!("/proc/{monitor}/task"))? {
        let children = std::fs::read_to_string(thread?.path().join("children"))?;
        for child in children.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm"))?;
            if name.trim() == "husk-vmm" {
                return Ok(Some(child.parse()?));
            }
        }
    }
    Ok(None)
}

/// A process's share of what is in memory, without the guest's, which is the only memory file.
/// proc_pid_smaps(5).
fn own_mib(pid: u64) -> Result<f64> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut kib, mut guest) = (0.0, false);
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.contains(' ') {
            guest = line.contains("/memfd:");
        } else if name == "Pss" && !guest {
            kib += value.trim().trim_end_matches(" kB").parse::<f64>()?;
        }
    }
    Ok(kib / 1024.0)
}

fn rate(guest: Guest) -> Result<f64> {
    let ended = guest.finish(DEADLINE);
    let rates = ended.values("rate ");
    let Some(rate) = rates.first().and_then(|rate| rate.split(' ').next()) else {
        bail!("no rate: {ended}");
    };
    Ok(rate.parse()?)
}

fn disk(runs: usize, report: &mut Report) -> Result<()> {
    for (case, name) in [("write", "writes to a disk"), ("read", "reads of a disk")] {
        let mut rates = Vec::new();
        for _ in 0..runs {
            let folder = tempfile::tempdir()?;
            let setup = bare(&format!("speed-blk-{case} mib={MIB}")).disk(&folder, MIB.into());
            rates.push(rate(start(&setup)?)?);
        }
        let name = format!("VMM: 128 KiB {name}, from the guest");
        report.add(&name, median(&rates), "MiB/s", None);
    }
    Ok(())
}

/// Writes what the guest wants to receive.
fn give(mut stream: UnixStream) {
    let block = vec![0; 64 << 10];
    for _ in 0..MIB * 16 {
        // A guest that ends early is seen by its rate.
        if stream.write_all(&block).is_err() {
            return;
        }
    }
    // Until the guest ends.
    let _ = stream.read(&mut [0]);
}

fn stream(direction: &str, serve: fn(UnixStream), report: &mut Report) -> Result<()> {
    let case = format!("speed-vsock-{direction} mib={MIB}");
    let setup = Setup { vsock: true, start_paused: true, ..bare(&case) };
    let guest = start(&setup)?;
    let listener = guest.vsock().listen(PORT, 1)?;
    guest.command(Request::Start);
    let server = thread::spawn(move || {
        if let Ok(Some(stream)) = listener.accept(ACCEPT) {
            serve(stream);
        }
    });
    let rate = rate(guest)?;
    // Its stream ended with the guest.
    let _ = server.join();
    report.add(&format!("VMM: vsock {direction}, from the guest"), rate, "MiB/s", None);
    Ok(())
}
