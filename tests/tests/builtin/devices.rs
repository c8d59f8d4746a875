//! The devices that no container sees yet, by Linux' own drivers.

use std::fs;
use std::path::{Path, PathBuf};

use husk::hypervisor::builtin::KERNEL_WORDS;
use husk_tests::bare_bed::{Guest, Kernel, Linux, Setup, Share, Size, Tap, Virtiofsd, open_kvm};
use husk_tests::guest::{cpio, init_program};
use husk_vmm::control::Request;

use super::DEADLINE;

const DISK_BYTES: usize = 1 << 20;
/// Of the file that is shared: more than one request takes, and no whole pages.
const SHARED_BYTES: usize = 1_500_001;

/// A machine with every device that Linux has a driver for, or why there is none here.
fn machine(folder: &tempfile::TempDir) -> Result<Setup, String> {
    let kernel = super::kernel()?;
    let built = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../build/guest/vmlinux");
    let init = fs::read(init_program("devices-init")).unwrap();
    let initramfs = folder.path().join("initramfs.cpio");
    fs::write(&initramfs, cpio(&[("init", &init)]).unwrap()).unwrap();
    let linux = Linux {
        kernel: kernel.unwrap_or_else(built),
        initramfs,
        words: KERNEL_WORDS.map(String::from).to_vec(),
    };
    let tap = Tap::new().map_err(|error| format!("make a tap: {error}"))?;
    Ok(Setup {
        kernel: Kernel::Linux(linux),
        size: Size { memory_mib: 128, hotplug_mib: 256, balloon_mib: Some(0), ..Size::default() },
        tap: Some(tap),
        ..Setup::new("linux-devices").disk(folder, 1)
    })
}

/// A folder as the guest expects it.
fn shared_folder(folder: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
    let shared = folder.path().join("shared");
    fs::create_dir_all(shared.join("folder")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(shared.join("folder").join(name), name).unwrap();
    }
    let content: Vec<u8> = (0u8..=240).cycle().take(SHARED_BYTES).collect();
    fs::write(shared.join("from-host"), &content).unwrap();
    (shared, content)
}

/// It, for both to write to, and for the host alone. Or why there are no servers here.
fn share(setup: &mut Setup, shared: &Path) -> Result<[Virtiofsd; 2], String> {
    let mut serve = |tag, read_only| {
        let (server, socket) = Virtiofsd::start(shared, read_only)?;
        setup.shares.push(Share { tag, socket });
        Ok::<_, String>(server)
    };
    Ok([serve("share", false)?, serve("fixed", true)?])
}

#[test]
fn drivers_of_linux_work_with_every_device() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, content) = shared_folder(&folder);
    let made = machine(&folder).and_then(|mut setup| {
        let servers = share(&mut setup, &shared)?;
        Ok((setup, servers, open_kvm()?))
    });
    let (setup, mut servers, kvm) = match made {
        Ok(made) => made,
        Err(reason) => return eprintln!("SKIPPED: {reason}"),
    };
    let disk = setup.disks[0].path.clone();
    let before: Vec<u8> = (0u8..=250).cycle().take(DISK_BYTES).collect();
    fs::write(&disk, &before).unwrap();
    let guest = Guest::start(&setup, kvm).unwrap();
    guest.expect("file systems: ", DEADLINE);
    guest.expect("memory: more, please", DEADLINE);
    guest.command(Request::MemTarget { mib: 128 });
    guest.expect("balloon: take some", DEADLINE);
    guest.command(Request::BalloonTarget { mib: 32 });
    guest.expect("balloon: give it back", DEADLINE);
    guest.command(Request::BalloonTarget { mib: 0 });
    let ended = guest.finish(DEADLINE);
    for device in
        ["file systems", "net", "disk", "share", "fixed share", "memory", "share again", "balloon"]
    {
        assert_eq!(ended.values(&format!("{device}: good")).len(), 1, "{device}: {ended}");
    }
    assert!(ended.status.is_some_and(|status| status.success()), "{ended}");
    let after: Vec<u8> = before.iter().map(|byte| byte.wrapping_add(1)).collect();
    assert!(fs::read(&disk).unwrap() == after, "the disk is not as the guest wrote it");
    let copy: Vec<u8> = content.iter().map(|byte| byte.wrapping_add(1)).collect();
    for name in ["from-guest", "with-more-memory"] {
        assert!(fs::read(shared.join(name)).unwrap() == copy, "{name} is not as it was written");
    }
    drop(setup);
    for server in &mut servers {
        assert!(server.end(DEADLINE).is_some(), "a file server outlives its machine");
    }
}
