//! Tests: A VMM of the test's own in the place of QEMU, and QEMU itself with a kernel.

use std::os::unix::fs::PermissionsExt;

use super::super::prepare::CONSOLE_FILE_BYTES;
use super::super::{BootPhase, testing};
use super::*;

/// A configuration whose files exist, and QEMU played by a script.
fn bench(script: &str) -> (tempfile::TempDir, VmConfig, Qemu) {
    let (folder, config) = testing::config();
    let program = testing::program(&folder, PROGRAM, script);
    (folder, config, Qemu::new(program, Accelerator::Tcg, None))
}

#[test]
fn vmm_that_fails_is_told_with_its_words_and_status() {
    let (_folder, config, qemu) = bench("echo booting; echo cannot do that >&2; exit 3");
    let mut vm = qemu.start(&config).unwrap();
    let listener = vm.vsock().listen(1024, 1);
    let gone = listener.and_then(|listener| listener.accept(std::time::Duration::from_secs(60)));
    assert!(gone.is_err());
    let status = loop {
        if let Some(status) = vm.try_wait().unwrap() {
            break status;
        }
    };
    assert_eq!(status.code(), Some(3));
    let diagnosis = vm.diagnose();
    assert_eq!(diagnosis.phase, BootPhase::Kernel);
    assert_eq!(diagnosis.stderr, ["cannot do that"]);
    assert_eq!(diagnosis.console, ["booting"]);
    assert!(diagnosis.to_string().contains("exit status: 3"), "{diagnosis}");
    assert_eq!(std::fs::read_to_string(&config.console_log).unwrap(), "booting\n");
}

#[test]
fn dropped_vm_is_gone() {
    let (_folder, config, qemu) = bench("exec sleep 1000");
    let vm = qemu.start(&config).unwrap();
    let pid = nix::unistd::Pid::from_raw(vm.pid().try_into().unwrap());
    assert!(nix::sys::signal::kill(pid, None).is_ok());
    drop(vm);
    assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::errno::Errno::ESRCH));
}

#[test]
fn console_that_floods_is_bounded() {
    let (_folder, config, qemu) = bench("yes 0123456789 | head -c 5000000; echo; echo end");
    let mut vm = qemu.start(&config).unwrap();
    while vm.try_wait().unwrap().is_none() {}
    let diagnosis = vm.diagnose();
    assert_eq!(diagnosis.console.last().unwrap(), "end");
    let previous = super::super::console::previous(&config.console_log);
    for path in [&config.console_log, &previous] {
        assert!(std::fs::metadata(path).unwrap().len() <= CONSOLE_FILE_BYTES);
    }
}

#[test]
fn program_is_looked_for_in_every_folder_of_the_path() {
    let (folder, _config, _) = bench("exit 0");
    let path = std::env::join_paths([Path::new("/no/such/folder"), folder.path()]).unwrap();
    assert_eq!(find_in(&path), Some(folder.path().join(PROGRAM)));
    let program = folder.path().join(PROGRAM);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(find_in(&path), None);
}
