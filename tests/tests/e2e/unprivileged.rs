//! husk for users who are not root: no privilege is needed from load to rm.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use husk_tests::{BUSYBOX, Bed};
use nix::unistd::Uid;

/// Whom husk is run as when the tests are run by root: nobody.
const NOBODY: u32 = 65534;

fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    for entry in fs::read_dir(path).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            give_away(&path);
        } else {
            std::os::unix::fs::lchown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
}

#[test]
fn everything_works_without_root() {
    let bed = Bed::empty();
    let layout = bed.path("layout");
    husk_tests::bed::busybox().write_layout(&layout, "latest").unwrap();
    // Where nobody can reach it: a checkout may be in root's home.
    let own = bed.path("own");
    fs::create_dir_all(own.join("bin")).unwrap();
    fs::create_dir_all(own.join("guest")).unwrap();
    fs::copy(bed.bin(), own.join("bin/husk")).unwrap();
    for name in ["vmlinux", "initramfs.cpio"] {
        fs::copy(bed.guest().join(name), own.join("guest").join(name)).unwrap();
    }
    let husk = own.join("bin/husk").display().to_string();
    let is_root = Uid::effective().is_root();
    if is_root {
        fs::set_permissions(bed.root(), fs::Permissions::from_mode(0o755)).unwrap();
        give_away(bed.root());
    }
    let run = |words: &[&str]| {
        let id = NOBODY.to_string();
        let become_nobody =
            ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs", &husk];
        let words = if is_root { [&become_nobody[1..], words].concat() } else { words.to_vec() };
        let program = if is_root { "setpriv" } else { &husk };
        // Found beside the program, as after an unpacked release.
        bed.program(program, &words).env("HUSK_GUEST_DIR", "")
    };
    run(&["load", "-q", &format!("oci:{}", layout.display())]).ok();
    run(&["images", BUSYBOX]).ok();
    let script = "id -u; touch /f && chown 1000 /f && stat -c %u /f; cat /proc/self/uid_map";
    let output = run(&["run", "--name", "box", "layout:latest", "sh", "-c", script]).ok();
    let words: Vec<&str> = output
        .stdout
        .split(|&b| b == b'\n')
        .map(|line| std::str::from_utf8(line).unwrap().trim())
        .collect();
    assert_eq!(words[..2], ["0", "1000"]);
    run(&["start", "-a", "box"]).ok();
    run(&["run", "-d", "--name", "web", "layout:latest", "sleep", "1000"]).ok();
    assert_eq!(run(&["exec", "web", "id", "-u"]).ok().out(), "0");
    for process in bed.vmms().iter().filter(|_| is_root) {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
        assert!(status.contains("Uid:\t65534\t65534"), "{status}");
    }
    run(&["stop", "-t", "0", "web"]).ok();
    run(&["rm", "web", "box"]).ok();
    run(&["rmi", "layout:latest"]).ok();
    bed.assert_nothing_left();
}

/// What nobody does in a mount namespace whose `/dev/kvm` has the permissions of `$M`. The guest of
/// `$G` only loops: the container is looked at while it boots.
const SCRIPT: &str = r#"
mkdir "$T/dev" && mount -t tmpfs none "$T/dev" && mount -o remount,dev "$T/dev" &&
mknod "$T/dev/kvm" c 10 232 && chmod "$M" "$T/dev/kvm" && chmod 755 "$T/dev" &&
mount --bind "$T/dev/kvm" /dev/kvm || exit 99
husk() { setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs "$T/own/bin/husk" "$@"; }
husk load -q --progress none "oci:$T/layout" >/dev/null || exit 98
husk doctor
husk run --name box --hypervisor kvm --progress none layout:latest true & run=$!
for i in $(seq 600); do
    husk inspect box 2>/dev/null | grep '"capabilities"' && break
    sleep 0.05
done
wait $run; code=$?
husk rm -f box >/dev/null
exit $code
"#;

fn as_nobody_with_kvm(mode: &str) -> Option<husk_tests::run::Output> {
    if !Uid::effective().is_root() || !Path::new("/dev/kvm").exists() {
        eprintln!("SKIPPED: another /dev/kvm for another user: not root, or there is none");
        return None;
    }
    let bed = Bed::empty();
    husk_tests::bed::busybox().write_layout(&bed.path("layout"), "latest").unwrap();
    let own = bed.path("own");
    fs::create_dir_all(own.join("bin")).unwrap();
    fs::create_dir_all(own.join("guest")).unwrap();
    fs::copy(bed.bin(), own.join("bin/husk")).unwrap();
    fs::write(own.join("guest/vmlinux"), crate::refused_machine::hanging_kernel()).unwrap();
    fs::write(own.join("guest/initramfs.cpio"), "x").unwrap();
    fs::set_permissions(bed.root(), fs::Permissions::from_mode(0o755)).unwrap();
    give_away(bed.root());
    let run = bed.program("unshare", &["-m", "sh", "-c", SCRIPT]).env("T", bed.root());
    let run = run.env("M", mode).env("HUSK_GUEST_DIR", "").env("HUSK_GUEST_TIMEOUT", "10");
    let output = run.env("HOME", bed.root()).output();
    bed.assert_nothing_left();
    Some(output)
}

#[test]
fn user_who_may_open_kvm_gets_as_far_as_root_in_a_whole_jail() {
    let Some(output) = as_nobody_with_kvm("666") else { return };
    let output = output.code(125);
    assert!(output.out().contains(r#""capabilities": "yes""#), "{}", output.out());
    let line = output.err();
    assert!(line.contains("did not answer within 10 s"), "{line}");
    assert!(line.contains("the built-in VMM still runs"), "{line}");
}

#[test]
fn user_who_may_not_open_kvm_is_told_what_to_do() {
    let Some(output) = as_nobody_with_kvm("600") else { return };
    let output = output.code(125);
    assert!(output.err().contains("open /dev/kvm: Permission denied"), "{}", output.err());
    assert!(output.err().contains("usermod -aG kvm"), "{}", output.err());
    assert!(output.out().contains("kvm              not usable"), "{}", output.out());
}
