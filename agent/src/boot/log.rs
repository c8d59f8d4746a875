//! A line now and then in the kernel's log: syslog(2) has the levels. Nothing that a container or a
//! spec holds is written there.

use std::{fs::OpenOptions, io::Write};

const KMSG: &str = "/dev/kmsg";

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
    // One record for each write. Before /dev is there, the console that the kernel has opened will do.
    let logged = OpenOptions::new()
        .write(true)
        .open(KMSG)
        .and_then(|mut kmsg| kmsg.write_all(line.as_bytes()));
    if logged.is_err() {
        let _ = writeln!(std::io::stderr(), "husk-agent: {message}");
    }
}
