//! A line now and then in the kernel's log: syslog(2) has the levels. Nothing that a container or a
//! spec holds is written there.

use std::{fs::OpenOptions, io, io::Write};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const KMSG: &str = "/dev/kmsg";
/// Documentation/admin-guide/devices.txt, /dev/kmsg.
const KMSG_NUMBER: (u64, u64) = (1, 11);

/// `KERN_INFO`.
pub fn info(message: &str) {
    write("6", message);
}

/// `KERN_ERR`: the console shows it too.
pub fn error(message: &str) {
    write("3", message);
}

fn write(level: &str, message: &str) {
    let line = format!("<{level}>husk-agent: {message}\n");
    if append(&line).is_err() {
        // Before devtmpfs is mounted.
        let (major, minor) = KMSG_NUMBER;
        let _ = mknod(KMSG, SFlag::S_IFCHR, Mode::S_IWUSR, makedev(major, minor));
        // Nobody is left to be told when this fails too.
        let _ = append(&line);
    }
}

/// One record for each write.
fn append(line: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(KMSG)?.write_all(line.as_bytes())
}
