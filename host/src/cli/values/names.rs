//! Values of the flags for names, name servers and kernel settings.

use std::net::IpAddr;

/// Kernel settings of an ipc namespace, ipc_namespaces(7).
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// `--dns`.
pub fn address(text: &str) -> Result<String, String> {
    let address: IpAddr =
        text.trim().parse().map_err(|_| format!("{text} is not an ip address"))?;
    Ok(address.to_string())
}

/// `--dns-search`; `.` stands for no domain.
pub fn domain(text: &str) -> Result<String, String> {
    let text = text.trim();
    let label = |label: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(allowed) && !label.starts_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if text == "." || (text.len() <= 255 && name.split('.').all(label)) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text} is not a valid domain"))
    }
}

/// `--add-host name:address` or `name=address`; an IPv6 address may stand in brackets. Comes out
/// with a colon.
pub fn extra_host(text: &str) -> Result<String, String> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let bad = || format!("bad format for add-host: {text:?}");
    let (name, address) = parts.ok_or_else(bad)?;
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '#';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(bad());
    }
    if address == "host-gateway" {
        return Err("host-gateway is not supported yet: there is no network to the host".to_owned());
    }
    let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let parsed: Result<IpAddr, _> = inner.unwrap_or(address).parse();
    let parsed = parsed.map_err(|_| format!("invalid IP address in add-host: {address:?}"))?;
    Ok(format!("{name}:{parsed}"))
}

/// `--sysctl`: of the container's own namespaces.
pub fn sysctl(text: &str) -> Result<(String, String), String> {
    let (name, value) = setting(text)?;
    let own = name.starts_with("net.")
        || name.starts_with("fs.mqueue.")
        || IPC_SYSCTLS.contains(&name.as_str());
    if own {
        Ok((name, value))
    } else {
        Err(format!(
            "sysctl '{name}' is not allowed: it is the guest's and not the container's own \
             (use --guest-sysctl)"
        ))
    }
}

/// `--guest-sysctl`: any of the guest's kernel.
pub fn guest_sysctl(text: &str) -> Result<(String, String), String> {
    setting(text)
}

/// `--kernel-arg`: one word; a list of them is put together with spaces.
pub fn kernel_arg(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic() && c != '"') {
        return Err(format!("{text:?} is not one word of printable characters"));
    }
    Ok(text.to_owned())
}

/// A name, its slashes turned into the dots they stand for, and a value.
fn setting(text: &str) -> Result<(String, String), String> {
    let bad = || format!("sysctl '{text}' is not NAME=VALUE");
    let (name, value) = text.split_once('=').ok_or_else(bad)?;
    let parts: Vec<&str> = name.split(['.', '/']).collect();
    let plain = |part: &&str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    if parts.len() < 2 || !parts.iter().all(plain) || value.contains(['\0', '\n']) {
        return Err(bad());
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_in_both_spellings() {
        for (text, host) in [
            ("db:10.0.0.1", "db:10.0.0.1"),
            ("db=10.0.0.1", "db:10.0.0.1"),
            ("db:::1", "db:::1"),
            ("db=[fe80::1]", "db:fe80::1"),
        ] {
            assert_eq!(extra_host(text).unwrap(), host);
        }
        for (bad, words) in [
            ("db", "bad format"),
            (":10.0.0.1", "bad format"),
            ("a b:10.0.0.1", "bad format"),
            ("db:nowhere", "invalid IP address"),
            ("db:host-gateway", "not supported yet"),
        ] {
            assert!(extra_host(bad).unwrap_err().contains(words), "{bad}");
        }
    }

    #[test]
    fn servers_and_domains_are_checked() {
        assert_eq!(address("::1").unwrap(), "::1");
        assert_eq!(address("x").unwrap_err(), "x is not an ip address");
        assert!(domain("example.com").is_ok() && domain(".").is_ok());
        for bad in ["", "a b", "-x", "a..b", "a\nnameserver"] {
            assert!(domain(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_of_the_guest_are_not_the_containers() {
        assert!(sysctl("net.core.somaxconn=1").is_ok());
        assert!(sysctl("kernel.shmmax=1").is_ok() && sysctl("fs.mqueue.msg_max=1").is_ok());
        let error = sysctl("vm.swappiness=1").unwrap_err();
        assert!(error.contains("use --guest-sysctl"), "{error}");
        assert!(guest_sysctl("vm.swappiness=1").is_ok());
        assert!(kernel_arg("nosmt=force").is_ok());
        for bad in ["", "a b", "a\nb", "a=\"b\"", "\u{e9}"] {
            assert!(kernel_arg(bad).is_err(), "{bad}");
        }
        for bad in ["vm=1", "vm.x", "", "a/../b=1", "vm.x=1\nvm.y=2"] {
            assert!(guest_sysctl(bad).is_err(), "{bad}");
        }
    }
}
