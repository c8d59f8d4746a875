//! What a container sees from inside: docker's defaults, as the kernel reports them.

use std::time::{SystemTime, UNIX_EPOCH};

use husk_tests::{BUSYBOX, Bed};

/// The line of a `/proc` file that begins with a key, without it.
fn field<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in\n{text}")).trim()
}

/// docker's fourteen, linux/capability.h: chown, dac_override, fowner, fsetid, kill, setgid,
/// setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const CAPABILITIES: &str = "00000000a80425fb";

#[test]
fn process_is_the_first_of_its_own_namespaces_with_dockers_capabilities() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let sh = |script: &str| bed.exec_sh("box", script).ok().out();
    let status = sh("cat /proc/1/status");
    assert_eq!(field(&status, "NSpid"), "1");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&status, set), CAPABILITIES, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(&status, "PPid"), "0");
    // A process that came later has the same.
    let status = sh("cat /proc/self/status");
    assert_eq!(field(&status, "CapBnd"), CAPABILITIES);
    assert_eq!(field(&status, "CapEff"), CAPABILITIES);
    // Nothing of the guest is among its processes: sleep, and what looks. By their programs: a name
    // is set only after a program began.
    let programs = "for p in /proc/[0-9]*; do readlink $p/exe || { [ -e $p ] && echo $p; }; done";
    assert_eq!(sh(&format!("{programs} | sort -u")), "/bin/busybox");
    assert_eq!(sh("readlink /proc/1/exe"), "/bin/busybox");
    assert_eq!(sh("ls /proc/1/task | wc -l"), "1");
}

#[test]
fn descriptors_of_husk_do_not_leak_into_the_container() {
    let bed = Bed::new();
    let fds = bed.sh(&[], "exec ls -l /proc/self/fd").ok().out();
    let numbers: Vec<&str> = fds
        .lines()
        .filter_map(|line| line.split(" -> ").next()?.split_whitespace().last())
        .collect();
    // 3 is the folder that ls reads.
    let allowed = ["0", "1", "2", "3", "0"];
    assert!(numbers.iter().all(|number| allowed.contains(number)), "{fds}");
}

#[test]
fn proc_and_sys_are_masked_and_read_only_as_dockers() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let sh = |script: &str| bed.exec_sh("box", script).output();
    for file in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"] {
        let script = format!("[ ! -e {file} ] || [ $(head -c 10 {file} | wc -c) = 0 ]");
        assert_eq!(sh(&script).code, 0, "{file} can be read");
    }
    for folder in ["/proc/acpi", "/proc/scsi", "/sys/firmware"] {
        let script = format!("[ ! -e {folder} ] || [ -z \"$(ls -A {folder})\" ]");
        assert_eq!(sh(&script).code, 0, "{folder} shows something");
        let script = format!("[ ! -e {folder} ] || ! touch {folder}/x");
        assert_eq!(sh(&script).code, 0, "{folder} can be written");
    }
    for file in ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/profiling"] {
        let script = format!("[ ! -e {file} ] || ! echo 1 > {file}");
        assert_eq!(sh(&script).code, 0, "{file} can be written");
    }
    assert_ne!(sh("mkdir /sys/fs/cgroup/x").code, 0, "a cgroup can be made");
    assert_ne!(sh("mount -t tmpfs x /mnt || mount -t tmpfs x /tmp").code, 0, "mount works");
    assert_ne!(sh("unshare -m true").code, 0, "a mount namespace can be made");
    assert_ne!(sh("mount -o remount,rw /sys").code, 0, "/sys can be remounted");
}

#[test]
fn devices_are_dockers_and_no_other_can_be_used() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let sh = |script: &str| bed.exec_sh("box", script).output();
    let names = sh("ls /dev | tr '\\n' ' '").code(0).out();
    let wanted = [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    ];
    for name in wanted {
        assert!(names.split(' ').any(|other| other == name), "no /dev/{name}: {names}");
    }
    for name in names.split_whitespace() {
        let known = wanted.contains(&name) || ["core", "console"].contains(&name);
        assert!(known, "/dev/{name} should not be there");
    }
    sh("echo x > /dev/null && [ $(head -c 5 /dev/zero | wc -c) = 5 ] && head -c 1 /dev/urandom | wc -c").code(0);
    assert_eq!(sh("stat -c %a:%t:%T /dev/null").out(), "666:1:3");
    assert_ne!(sh("echo x > /dev/full").code, 0);
    // The image's disk, 254:0 or so, is a block device: no node for it works, for none is allowed.
    let script = "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk; echo $?; rm -f /tmp/disk";
    assert_ne!(sh(script).out(), "0", "a disk of the guest can be read");
    let script = "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem; echo $?; rm -f /tmp/mem";
    assert_ne!(sh(script).out(), "0", "the guest's memory can be read");
}

#[test]
fn network_is_loopback_and_names_are_the_containers() {
    let bed = Bed::new();
    bed.husk(&["run", "-d", "--name", "box", "-h", "shell.example", BUSYBOX, "sleep", "1000"]).ok();
    let sh = |script: &str| bed.exec_sh("box", script).ok().out();
    assert_eq!(sh("hostname; cat /etc/hostname"), "shell.example\nshell.example");
    let hosts = sh("cat /etc/hosts");
    assert!(hosts.contains("127.0.0.1\tlocalhost") && hosts.contains("shell.example"), "{hosts}");
    assert_eq!(sh("ls /sys/class/net"), "lo");
    assert!(sh("ip addr show lo").contains("127.0.0.1/8"));
    assert!(sh("ip link show lo").contains("UP"));
    let script = "(echo pong | nc -l -p 4242 &) ; for i in $(seq 50); do nc 127.0.0.1 4242 </dev/null 2>/dev/null && break; sleep 0.1; done";
    assert_eq!(sh(script), "pong");
}

#[test]
fn clock_is_the_hosts() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = seconds(SystemTime::now());
    let inside: f64 = bed.exec_sh("box", "date +%s").ok().out().parse().unwrap();
    let after = seconds(SystemTime::now());
    assert!(inside > before - 2.0 && inside < after + 2.0, "{before} {inside} {after}");
}

#[test]
fn root_is_writable_and_its_own_unless_read_only() {
    let bed = Bed::new();
    bed.sh(&[], "echo x > /file && rm /bin/vi && mkdir /etc/new && cat /file").ok();
    bed.sh(&[], "[ ! -e /file ] && [ -e /bin/vi ] && [ ! -e /etc/new ]").ok();
    let flags = ["--read-only", "--tmpfs", "/scratch:size=1m,mode=1770", "--tmpfs", "/plain"];
    let script = "! touch /file && ! touch /etc/x && touch /scratch/x /plain/x /dev/shm/x && \
                  stat -c %a /scratch && df -k /scratch | tail -n 1 | awk '{print $2}' && \
                  ! dd if=/dev/zero of=/scratch/big bs=1M count=2 2>/dev/null";
    let output = bed.sh(&flags, script).ok();
    assert_eq!(output.out(), "1770\n1024");
}

#[test]
fn mounts_are_the_ones_a_container_has() {
    let bed = Bed::new();
    let mounts = bed.sh(&[], "cat /proc/self/mounts").ok().out();
    let find = |path: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(path));
        line.unwrap_or_else(|| panic!("{path} is not mounted:\n{mounts}")).to_owned()
    };
    assert!(find("/").contains("overlay"));
    for (path, kind, options) in [
        ("/proc", "proc", vec!["nosuid", "nodev", "noexec"]),
        ("/sys", "sysfs", vec!["ro", "nosuid", "nodev", "noexec"]),
        ("/sys/fs/cgroup", "cgroup2", vec!["ro", "nosuid", "nodev", "noexec"]),
        ("/dev", "tmpfs", vec!["nosuid"]),
        ("/dev/pts", "devpts", vec!["nosuid", "noexec"]),
        ("/dev/shm", "tmpfs", vec!["nosuid", "nodev", "noexec"]),
        ("/dev/mqueue", "mqueue", vec!["nosuid", "nodev", "noexec"]),
    ] {
        let line = find(path);
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[2], kind, "{line}");
        let has = |option: &&str| words[3].split(',').any(|other| other == *option);
        assert!(options.iter().all(has), "{line}");
    }
    // Nothing of the guest: neither the agent's root nor its files.
    let known = ["/", "/proc", "/sys", "/dev", "/etc"];
    for line in mounts.lines() {
        let path = line.split(' ').nth(1).unwrap();
        let below = |top: &&str| path == *top || path.starts_with(&format!("{top}/"));
        assert!(path == "/" || known[1..].iter().any(below), "{line}");
    }
}

#[test]
fn cgroup_is_the_containers_own_root() {
    let bed = Bed::new();
    let output = bed.sh(&[], "cat /proc/self/cgroup; ls /sys/fs/cgroup").ok().out();
    assert!(output.starts_with("0::/\n"), "{output}");
    assert!(output.contains("memory.current") && output.contains("cpu.max"), "{output}");
}

#[test]
fn threads_of_a_container_cannot_outlive_it() {
    let bed = Bed::new();
    let output = bed.sh(&[], "sleep 1000 & (setsid sleep 1000 &) ; echo done").ok();
    assert_eq!(output.out(), "done");
    bed.assert_nothing_left();
}
