//! Files of the sandbox: /etc/hosts, /etc/hostname, /etc/resolv.conf.

use crate::engine::record::Config;

/// A file that the agent writes before the container starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFile {
    /// Name below /run/husk/files, and below /etc in the container.
    pub name: &'static str,
    /// What is in it.
    pub content: String,
}

/// The sandbox's files. There is no network beyond loopback, so no name server is named that
/// nobody asked for.
#[must_use]
pub fn sandbox_files(config: &Config) -> Vec<SandboxFile> {
    vec![
        SandboxFile { name: "hosts", content: hosts(config) },
        SandboxFile { name: "hostname", content: format!("{}\n", config.hostname) },
        SandboxFile { name: "resolv.conf", content: resolv_conf(config) },
    ]
}

fn hosts(config: &Config) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    for entry in &config.surroundings.extra_hosts {
        if let Some((name, address)) = entry.split_once(':') {
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    let hostname = &config.hostname;
    match config.surroundings.domainname.as_str() {
        "" => text.push_str(&format!("127.0.1.1\t{hostname}\n")),
        domain => text.push_str(&format!("127.0.1.1\t{hostname}.{domain} {hostname}\n")),
    }
    text
}

/// resolv.conf(5).
fn resolv_conf(config: &Config) -> String {
    let names = &config.surroundings;
    let mut text: String =
        names.dns.iter().map(|address| format!("nameserver {address}\n")).collect();
    for (keyword, words) in [("search", &names.dns_search), ("options", &names.dns_options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    text
}
