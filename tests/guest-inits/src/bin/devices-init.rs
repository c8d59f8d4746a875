//! PID 1 that uses the devices that no container sees yet, by the kernel's own drivers: a network
//! interface, a plain disk, shared folders, hot-plug memory, the balloon. Says on the console what
//! it saw, line by line, and then ends the virtual machine.
//!
//! The host answers pings at 10.0.0.1; it changes the targets of memory and balloon when the lines
//! that ask for it are there.

#![allow(unsafe_code)]
#![allow(clippy::cast_possible_truncation, reason = "constants of C, and bytes of a pattern")]

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Read, Result, Seek, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvmsg, sendmsg, socket,
};

const INTERFACE: &str = "eth0";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// More than a frame: what does not fit one comes in fragments.
const PING_BYTES: usize = 4000;
const PINGS: u8 = 5;
const DISK: &str = "/dev/vda";
const DISK_BYTES: usize = 1 << 20;
/// A folder of the host with a file and a folder of three, for both to write to, and the same
/// folder, where only the host writes: tag and place.
const SHARE: (&str, &str) = ("share", "/share");
const FIXED: (&str, &str) = ("fixed", "/fixed");
/// The host's file in each of them.
const HOST_FILE: &str = "from-host";
/// Another processor's work and a slow one's patience.
const PATIENCE: Duration = Duration::from_secs(120);

type Step = fn() -> Result<()>;

fn main() {
    let steps: [(&str, Step); 8] = [
        ("file systems", file_systems),
        ("net", network),
        ("disk", disk),
        ("share", share),
        ("fixed share", fixed_share),
        ("memory", memory),
        ("share again", share_again),
        ("balloon", balloon),
    ];
    for (what, step) in steps {
        match step() {
            Ok(()) => println!("{what}: good"),
            Err(error) => println!("{what}: {error}"),
        }
    }
    println!("devices-init: {}", husk_guest_inits::end_vm());
}

fn file_systems() -> Result<()> {
    for (kind, at) in [("proc", "/proc"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    Ok(())
}

/// An IPv4 address as the kernel takes it. ip(7).
fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // The port's two bytes, then the address'.
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = from.cast_signed();
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// Gives the interface its address and brings it up. netdevice(7).
fn configure(socket: &OwnedFd) -> Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_addr: sockaddr(ADDRESS) },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(INTERFACE.bytes()) {
        *to = from.cast_signed();
    }
    set(socket, libc::SIOCSIFADDR, &request)?;
    request.ifr_ifru.ifru_addr = sockaddr(Ipv4Addr::new(255, 255, 255, 0));
    set(socket, libc::SIOCSIFNETMASK, &request)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    set(socket, libc::SIOCSIFFLAGS, &request)
}

fn set(socket: &OwnedFd, what: libc::c_ulong, request: &libc::ifreq) -> Result<()> {
    let what = what as libc::Ioctl;
    // SAFETY: the kernel reads an ifreq that outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_ref(request)) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Pings, whose answers must be what was sent. RFC 792.
fn network() -> Result<()> {
    let (flags, icmp) = (SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp);
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, icmp)?;
    configure(&socket)?;
    for number in 0..PINGS {
        let mut ping = vec![8, 0, 0, 0, 0, number, 0, number];
        ping.extend((0..PING_BYTES).map(|at| (at * 7 + usize::from(number)) as u8));
        let sum = checksum(&ping);
        ping[2..4].copy_from_slice(&sum.to_be_bytes());
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(HOST, 0));
        let slice = [IoSlice::new(&ping)];
        sendmsg(socket.as_raw_fd(), &slice, &[], MsgFlags::empty(), Some(&to))?;
        let answer = answer(&socket)?;
        // Type 0, another sum, and all else the same.
        if answer.first() != Some(&0) || answer.get(4..) != Some(&ping[4..]) {
            return Err(Error::other(format!("answer {number} of {} bytes", answer.len())));
        }
    }
    Ok(())
}

/// The next answer, without its IPv4 header of 20 bytes.
fn answer(socket: &OwnedFd) -> Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = vec![0; 2 * PING_BYTES];
    loop {
        let mut slice = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        match recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slice, None, flags) {
            Ok(message) => {
                let len = message.bytes;
                return Ok(bytes.get(20..len).unwrap_or_default().to_vec());
            }
            Err(nix::errno::Errno::EAGAIN) if Instant::now() < until => {
                sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Adds one to each byte of a disk, so that the host sees both what was read and what was written.
fn disk() -> Result<()> {
    let mut disk = OpenOptions::new().read(true).write(true).open(DISK)?;
    let mut bytes = vec![0; DISK_BYTES];
    disk.read_exact(&mut bytes)?;
    bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    disk.rewind()?;
    disk.write_all(&bytes)?;
    disk.sync_all()
}

fn mount_share((tag, at): (&str, &str)) -> Result<()> {
    fs::create_dir_all(at)?;
    mount(Some(tag), at, Some("virtiofs"), MsFlags::empty(), None::<&str>)?;
    Ok(())
}

/// The names in a folder, in their order.
fn names(folder: &str) -> Result<Vec<String>> {
    let name = |entry: Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let mut names = fs::read_dir(folder)?.map(name).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Lists, and writes the host's file with one added to each byte, so that the host sees both what
/// was read and what was written.
fn share() -> Result<()> {
    mount_share(SHARE)?;
    let listed = (names(SHARE.1)?, names(&format!("{}/folder", SHARE.1))?);
    if listed
        != (
            vec!["folder".to_owned(), HOST_FILE.to_owned()],
            ["a", "b", "c"].map(String::from).to_vec(),
        )
    {
        return Err(Error::other(format!("the folders have {listed:?}")));
    }
    copy_share("from-guest")
}

fn copy_share(name: &str) -> Result<()> {
    let mut bytes = fs::read(format!("{}/{HOST_FILE}", SHARE.1))?;
    bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    let mut file = File::create_new(format!("{}/{name}", SHARE.1))?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// It is mounted to be written to, and it is the host that refuses.
fn fixed_share() -> Result<()> {
    mount_share(FIXED)?;
    let path = format!("{}/{HOST_FILE}", FIXED.1);
    if fs::read(&path)? != fs::read(format!("{}/{HOST_FILE}", SHARE.1))? {
        return Err(Error::other("another file"));
    }
    let refused = |done: Result<File>| match done {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => Ok(()),
        other => Err(Error::other(format!("not refused: {other:?}"))),
    };
    refused(OpenOptions::new().write(true).open(&path))?;
    refused(File::create_new(format!("{}/refused", FIXED.1)))
}

/// With memory that was not there when it was mounted, and nothing kept of the file.
fn share_again() -> Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    copy_share("with-more-memory")
}

/// The number of a line `NAME NUMBER` or `NAME: NUMBER kB`, as `/proc` has them.
fn number(file: &str, name: &str) -> Result<u64> {
    let mut text = String::new();
    File::open(file)?.read_to_string(&mut text)?;
    let words = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([':', ' ']));
    let number = words.and_then(|words| words.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| ErrorKind::InvalidData.into())
}

/// Asks the host by a line, and waits until a number of a file has grown enough.
fn grows(file: &str, name: &str, line: &str, enough: u64) -> Result<()> {
    let before = number(file, name)?;
    println!("{line}");
    let until = Instant::now() + PATIENCE;
    loop {
        let now = number(file, name)?;
        if now >= before + enough {
            println!("{name} from {before} to {now}");
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::other(format!("{name} is {now}, was {before}")));
        }
        sleep(Duration::from_millis(50));
    }
}

/// The host adds 128 MiB; a part of them is for the kernel's own tables.
fn memory() -> Result<()> {
    grows("/proc/meminfo", "MemTotal", "memory: more, please", 100 << 10)
}

/// The host takes 32 MiB and gives them back, in pages as the driver counts them. Free memory tells
/// less: it falls and rises by as much while free pages are reported to the host.
fn balloon() -> Result<()> {
    grows("/proc/vmstat", "balloon_inflate", "balloon: take some", 32 << 8)?;
    grows("/proc/vmstat", "balloon_deflate", "balloon: give it back", 32 << 8)
}
