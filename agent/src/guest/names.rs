//! Names: the guest's own, and the files by which its containers find others.

use std::{fmt::Write as _, net::IpAddr};

use super::{GuestError, HostFile, Result, short};

/// sethostname(2).
const MAX_HOSTNAME_LEN: usize = 64;
/// RFC 1035 §2.3.4.
const MAX_NAME_LEN: usize = 253;
/// IFNAMSIZ without its terminator.
const MAX_ZONE_LEN: usize = 15;
const MAX_SERVERS: usize = 16;
const MAX_SEARCH: usize = 32;
const MAX_OPTIONS: usize = 32;
const MAX_HOSTS: usize = 4096;
const MAX_NAMES: usize = 64;
const MODE: u32 = 0o644;

/// Whether a text is a name of hosts. The underscore is not of the standard, and in use.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= MAX_NAME_LEN && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn name<'a>(field: &str, text: &'a str) -> Result<&'a str> {
    if is_name(text) {
        Ok(text)
    } else {
        Err(GuestError::invalid(field, format!("{:?} is no name of a host", short(text))))
    }
}

/// An address, with the zone of a link-local one: RFC 4007 §11.
fn address<'a>(field: &str, text: &'a str) -> Result<&'a str> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(a, zone)| (a, Some(zone)));
    let is_zone = |zone: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=MAX_ZONE_LEN).contains(&zone.len()) && zone.bytes().all(plain)
    };
    match (address.parse::<IpAddr>(), zone) {
        (Ok(_), None) => Ok(text),
        (Ok(IpAddr::V6(_)), Some(zone)) if is_zone(zone) => Ok(text),
        _ => Err(GuestError::invalid(field, format!("{:?} is no IP address", short(text)))),
    }
}

fn at_most<T>(field: &str, list: &[T], limit: usize) -> Result<()> {
    if list.len() <= limit {
        Ok(())
    } else {
        let reason = format!("{} are more than {limit}", list.len());
        Err(GuestError::invalid(field, reason))
    }
}

/// Whether the guest can have this name.
///
/// # Errors
/// [`GuestError::Invalid`].
pub fn check_hostname(hostname: &str) -> Result<()> {
    name("hostname", hostname)?;
    if hostname.len() > MAX_HOSTNAME_LEN {
        let reason = format!("has more than {MAX_HOSTNAME_LEN} bytes");
        return Err(GuestError::invalid("hostname", reason));
    }
    Ok(())
}

/// Sets the guest's own name, which containers without a uts namespace of their own share.
///
/// # Errors
/// [`GuestError`].
pub fn set_hostname(hostname: &str) -> Result<()> {
    check_hostname(hostname)?;
    nix::unistd::sethostname(hostname).map_err(GuestError::call("set the host name to", hostname))
}

/// resolv.conf(5).
#[derive(Debug, Default)]
pub struct Dns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains.
    pub search: Vec<String>,
    /// Such as `ndots:2`.
    pub options: Vec<String>,
}

impl Dns {
    /// The file.
    ///
    /// # Errors
    /// [`GuestError::Invalid`] with the field and its value.
    pub fn file(&self) -> Result<HostFile> {
        at_most("servers", &self.servers, MAX_SERVERS)?;
        at_most("search", &self.search, MAX_SEARCH)?;
        at_most("options", &self.options, MAX_OPTIONS)?;
        let mut text = String::new();
        for server in &self.servers {
            // Writing to a string does not fail.
            let _ = writeln!(text, "nameserver {}", address("servers", server)?);
        }
        let search = self
            .search
            .iter()
            .map(|domain| if domain == "." { Ok(".") } else { name("search", domain) })
            .collect::<Result<Vec<_>>>()?;
        let options = self.options.iter().map(|o| option(o)).collect::<Result<Vec<_>>>()?;
        for (keyword, words) in [("search", search), ("options", options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{keyword} {}", words.join(" "));
            }
        }
        Ok(HostFile { name: "resolv.conf".to_owned(), content: text.into_bytes(), mode: MODE })
    }
}

/// `word` or `word:number`.
fn option(text: &str) -> Result<&str> {
    let (word, number) = text.split_once(':').unwrap_or((text, "0"));
    let is_word = |word: &str| {
        (1..=32).contains(&word.len())
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if is_word(word)
        && (1..=9).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
    {
        Ok(text)
    } else {
        let reason = format!("{:?} is no option of resolv.conf", short(text));
        Err(GuestError::invalid("options", reason))
    }
}

/// A line of hosts(5).
#[derive(Debug)]
pub struct HostsEntry {
    /// IP.
    pub address: String,
    /// The canonical one first.
    pub names: Vec<String>,
}

/// The file.
///
/// # Errors
/// [`GuestError::Invalid`] with the value.
pub fn hosts(entries: &[HostsEntry]) -> Result<HostFile> {
    at_most("entries", entries, MAX_HOSTS)?;
    let mut text = String::new();
    for entry in entries {
        at_most("entries.names", &entry.names, MAX_NAMES)?;
        text.push_str(address("entries.address", &entry.address)?);
        if entry.names.is_empty() {
            return Err(GuestError::invalid("entries.names", "an address without a name"));
        }
        for text_name in &entry.names {
            text.push(' ');
            text.push_str(name("entries.names", text_name)?);
        }
        text.push('\n');
    }
    Ok(HostFile { name: "hosts".to_owned(), content: text.into_bytes(), mode: MODE })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn resolv_conf_has_a_line_for_each_keyword() {
        let dns = Dns {
            servers: list(&["192.0.2.1", "fe80::1%eth0"]),
            search: list(&["example.org", "."]),
            options: list(&["ndots:2", "edns0"]),
        };
        let text = String::from_utf8(dns.file().unwrap().content).unwrap();
        let expected = "nameserver 192.0.2.1\nnameserver fe80::1%eth0\n\
                        search example.org .\noptions ndots:2 edns0\n";
        assert_eq!(text, expected);
        assert!(Dns::default().file().unwrap().content.is_empty());
    }

    #[test]
    fn what_would_break_a_line_is_refused() {
        let dns = |servers: &[&str], search: &[&str], options: &[&str]| Dns {
            servers: list(servers),
            search: list(search),
            options: list(options),
        };
        for bad in [
            dns(&["192.0.2.1\nnameserver 6.6.6.6"], &[], &[]),
            dns(&["192.0.2.1%eth0"], &[], &[]),
            dns(&["fe80::1%a b"], &[], &[]),
            dns(&["example.org"], &[], &[]),
            dns(&[], &["a\nb"], &[]),
            dns(&[], &["-a"], &[]),
            dns(&[], &["a..b"], &[]),
            dns(&[], &[], &["ndots:2\nnameserver 6.6.6.6"]),
            dns(&[], &[], &["ndots:"]),
            dns(&vec!["192.0.2.1"; 17], &[], &[]),
        ] {
            assert!(bad.file().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_hosts_are_one_line_each(
            entries in prop::collection::vec(("[0-9a-f:.%\\n ]{1,12}", "[a-z.\\-\\n# ]{0,12}"), 1..4)
        ) {
            let entries: Vec<HostsEntry> = entries
                .into_iter()
                .map(|(address, name)| HostsEntry { address, names: vec![name] })
                .collect();
            if let Ok(file) = hosts(&entries) {
                let text = String::from_utf8(file.content).unwrap();
                prop_assert_eq!(text.lines().count(), entries.len());
                for line in text.lines() {
                    prop_assert_eq!(line.split(' ').count(), 2);
                }
            }
        }
    }
}
