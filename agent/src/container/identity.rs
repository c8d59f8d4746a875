//! Who a process runs as: numbers of the spec, or names looked up in the container's own
//! /etc/passwd and /etc/group (passwd(5), group(5)), which are not trusted.

use std::io::Read;

use nix::{
    fcntl::{OFlag, open},
    sys::stat::{Mode, SFlag, fstat},
};

use super::plan::UserPlan;

/// Nobody needs more of a database in a container; a file without end is not read to it.
const MAX_DATABASE: u64 = 1 << 20;
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user, resolved.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Home folder, `/` when nobody knows.
    pub home: String,
}

/// Why a name leads to nobody.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// Not in /etc/passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// Not in /etc/group.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
}

/// Resolves a user inside the caller's root.
///
/// # Errors
/// [`UserError`] for an unknown name.
pub fn find(user: &UserPlan) -> Result<Identity, UserError> {
    resolve(user, &read(PASSWD), &read(GROUP))
}

/// A file as text; what is missing, no regular file or too long to the end is empty or cut.
fn read(path: &str) -> String {
    // A FIFO or a terminal must not hold the stage up.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let Ok(file) = open(path, flags, Mode::empty()) else { return String::new() };
    let regular = fstat(&file).is_ok_and(|file| {
        SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
    });
    let mut bytes = Vec::new();
    if regular {
        // What could be read counts.
        let _ = std::fs::File::from(file).take(MAX_DATABASE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An id as text. The last number is none: to setresuid(2) it means "leave it", which is root.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&id| id != u32::MAX)
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        Some(Account { name, uid: id(uid)?, gid: id(gid)?, home })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields.as_slice() else { return None };
        Some(Group { name, gid: id(gid)?, members })
    })
}

fn resolve(user: &UserPlan, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let Some(name) = &user.name else {
        let home = accounts(passwd).find(|account| account.uid == user.uid);
        return Ok(Identity {
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.additional_gids.clone(),
            home: home_of(home.as_ref()),
        });
    };
    let mut parts = name.splitn(3, ':');
    let name = parts.next().unwrap_or_default();
    let group_name = parts.next().filter(|group| !group.is_empty());
    let more_groups = parts.next().into_iter().flat_map(|list| list.split(','));
    let number = if name.is_empty() { Some(0) } else { id(name) };
    let account = accounts(passwd)
        .find(|account| account.name == name || number.is_some_and(|uid| account.uid == uid));
    let uid = account
        .as_ref()
        .map(|account| account.uid)
        .or(number)
        .ok_or_else(|| UserError::NoUser(name.to_owned()))?;
    let mut additional_gids = user.additional_gids.clone();
    for name in more_groups {
        additional_gids.push(find_group(group, name)?);
    }
    let gid = match group_name {
        Some(wanted) => find_group(group, wanted)?,
        None => {
            if let Some(account) = &account {
                additional_gids.extend(memberships(group, account.name));
            }
            account.as_ref().map_or(0, |account| account.gid)
        }
    };
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(Identity { uid, gid, additional_gids, home: home_of(account.as_ref()) })
}

fn home_of(account: Option<&Account<'_>>) -> String {
    let usable = |home: &&str| home.starts_with('/') && !home.contains('\0');
    account.map(|account| account.home).filter(usable).unwrap_or("/").to_owned()
}

fn find_group(group: &str, wanted: &str) -> Result<u32, UserError> {
    let number = id(wanted);
    groups(group)
        .find(|group| group.name == wanted)
        .map(|group| group.gid)
        .or(number)
        .ok_or_else(|| UserError::NoGroup(wanted.to_owned()))
}

fn memberships<'a>(group: &'a str, user: &'a str) -> impl Iterator<Item = u32> {
    groups(group)
        .filter(move |group| group.members.split(',').any(|member| member == user))
        .map(|group| group.gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# broken\nweb:x:33:34::/srv/web:/bin/false\n\
                          bad:x:x:1::/:\nrel:x:40:40::home:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:root,web\ntape:x:60:web\n:::\n";

    fn resolve_name(name: &str) -> Result<Identity, UserError> {
        let user = UserPlan { uid: 7, gid: 7, name: Some(name.to_owned()), ..UserPlan::default() };
        resolve(&user, PASSWD, GROUP)
    }

    fn ids(name: &str) -> (u32, u32, Vec<u32>) {
        let identity = resolve_name(name).unwrap();
        (identity.uid, identity.gid, identity.additional_gids)
    }

    #[test]
    fn numbers_of_the_spec_are_taken_as_they_are() {
        let user = UserPlan { uid: 33, gid: 9, additional_gids: vec![5], ..UserPlan::default() };
        let identity = resolve(&user, PASSWD, GROUP).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.additional_gids), (33, 9, vec![5]));
        assert_eq!(identity.home, "/srv/web");
    }

    #[test]
    fn names_bring_their_groups() {
        assert_eq!(ids("web"), (33, 34, vec![50, 60]));
        assert_eq!(ids("33"), (33, 34, vec![50, 60]));
        assert_eq!(ids("web:logs"), (33, 50, vec![]));
        assert_eq!(ids("web:77"), (33, 77, vec![]));
        assert_eq!(ids("1234"), (1234, 0, vec![]));
        assert_eq!(ids("1234:web"), (1234, 34, vec![]));
        assert_eq!(ids("1234::tape,7"), (1234, 0, vec![7, 60]));
        assert_eq!(ids("web:77:logs"), (33, 77, vec![50]));
        assert_eq!(ids("::logs"), (0, 0, vec![50]));
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(resolve_name("nobody"), Err(UserError::NoUser("nobody".to_owned())));
        for name in ["web:nogroup", "web::nogroup", "web::logs,nogroup"] {
            assert_eq!(resolve_name(name), Err(UserError::NoGroup("nogroup".to_owned())));
        }
    }

    #[test]
    fn number_that_would_leave_root_as_it_is_is_nobodys() {
        let none = u32::MAX;
        let passwd = format!("u:x:{none}:0::/:\ng:x:5:{none}::/:\n");
        let user = |name: &str| UserPlan { name: Some(name.to_owned()), ..UserPlan::default() };
        let group = format!("n:x:{none}:\n");
        for name in
            ["u", "g", &none.to_string(), &format!("5:{none}"), "5:n", &format!("5::{none}")]
        {
            assert!(resolve(&user(name), &passwd, &group).is_err(), "{name}");
        }
    }

    #[test]
    fn home_that_is_no_path_is_the_root() {
        assert_eq!(resolve_name("rel").unwrap().home, "/");
        assert_eq!(resolve_name("1234").unwrap().home, "/");
    }
}
