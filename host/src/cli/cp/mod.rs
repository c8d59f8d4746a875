//! `husk cp`: docker's rules of what a source becomes at its destination. The archive that a guest
//! sends is extracted by `unpack`, which does not trust it; `pack` makes the one that a guest gets.

mod address;
mod pack;
mod unpack;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::libc;

use self::address::{GuestPath, Place, asserts_folder, is_content};
use self::unpack::Placing;
use super::args;
use super::failure::{Failure, print_error_line};
use super::stats::decimal;
use crate::engine::Engine;
use crate::engine::copy::Copying;
use crate::engine::store::Container;

/// Symbolic links in a row, as the kernel counts.
const MAX_LINKS: usize = 40;
const BUFFER: usize = 64 << 10;

/// `husk cp`.
pub fn cp(flags: &args::Cp) -> Result<u8, Failure> {
    let places = (Place::parse(&flags.source)?, Place::parse(&flags.destination)?);
    let copied = match &places {
        (Place::Container { name, path }, to) if !matches!(to, Place::Container { .. }) => {
            Guest::find(name).and_then(|guest| outward(flags, &guest, path, to))
        }
        (Place::Container { .. }, _) => {
            return Err(Failure::new("cp: copying between containers is not supported"));
        }
        (from, Place::Container { name, path }) => {
            Guest::find(name).and_then(|guest| inward(flags, &guest, from, path))
        }
        _ => return Err(Failure::new("cp: must specify at least one container source")),
    };
    let words = format!("cp {} {}", flags.source.display(), flags.destination.display());
    let bytes = copied.map_err(|failure| failure.during(&words))?;
    if !flags.quiet && !matches!(places.1, Place::Stdio) {
        let to = flags.destination.display();
        print_error_line(&format!("Successfully copied {} to {to}", decimal(bytes)));
    }
    Ok(0)
}

/// The container of a copy.
struct Guest {
    engine: Engine,
    container: Container,
    name: String,
}

/// What a path of the container leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link,
    Other,
}

impl Guest {
    fn find(name: &str) -> Result<Self, Failure> {
        let engine = Engine::open()?;
        let container = engine.find(name)?;
        Ok(Self { engine, container, name: name.to_owned() })
    }

    /// What is at `path`, and where a symbolic link there leads to.
    fn look(&self, path: &GuestPath) -> Result<Option<(Kind, String)>, Failure> {
        let status = self.engine.file_status(&self.container, path.text())?;
        Ok(status.map(|status| {
            let kind = match status.mode & libc::S_IFMT {
                libc::S_IFDIR => Kind::Folder,
                libc::S_IFREG => Kind::File,
                libc::S_IFLNK => Kind::Link,
                _ => Kind::Other,
            };
            (kind, status.link_target)
        }))
    }

    /// Follows symbolic links to their end, where there may be nothing.
    fn follow(&self, path: &GuestPath) -> Result<(GuestPath, Option<Kind>), Failure> {
        let mut path = path.clone();
        for _ in 0..MAX_LINKS {
            match self.look(&path)? {
                Some((Kind::Link, target)) => path = path.linked_to(&target),
                found => return Ok((path, found.map(|(kind, _)| kind))),
            }
        }
        Err(Failure::new(format!("{}: too many symbolic links", path.text())))
    }

    fn missing(&self, path: &GuestPath) -> Failure {
        let (path, name) = (path.text(), &self.name);
        Failure::new(format!("Could not find the file {path} in container {name}"))
    }
}

/// From the container to the host. Returns the bytes of the archive.
fn outward(flags: &args::Cp, guest: &Guest, path: &GuestPath, to: &Place) -> Result<u64, Failure> {
    let Some((mut kind, _)) = guest.look(path)? else { return Err(guest.missing(path)) };
    let mut source = path.clone();
    if kind == Kind::Link && (flags.follow_link || path.asserts_folder) {
        let (end, found) = guest.follow(path)?;
        kind = found.ok_or_else(|| guest.missing(&end))?;
        source = end;
    }
    let is_folder = kind == Kind::Folder;
    if path.asserts_folder && !is_folder {
        return Err(Failure::new(format!("{}: not a directory", path.text())));
    }
    let Place::Local(to) = to else {
        if io::stdout().is_terminal() {
            return Err(Failure::new("standard output is a terminal (redirect it to a file)"));
        }
        let request = if path.is_content { source.content() } else { source.text().to_owned() };
        return receive(guest.engine.copy_out(&guest.container, &request)?, |stream| {
            io::copy(stream, &mut io::stdout().lock()).map(drop).map_err(lost)
        });
    };
    let base = path.name().map(OsString::from).filter(|_| !path.is_content);
    let (folder, put_at) = place_outward(path, base, is_folder, to)?;
    // Its own name is not asked for where another is given: the guest has no say in names.
    let (request, first) = match source.name().filter(|_| !is_folder) {
        Some(name) => (source.text().to_owned(), name.as_bytes().to_owned()),
        None => (source.content(), b".".to_vec()),
    };
    let placing = Placing { first, put_at, single: !is_folder, archive: flags.archive };
    receive(guest.engine.copy_out(&guest.container, &request)?, |stream| {
        unpack::unpack(stream, &folder, placing)
    })
}

/// The folder that takes what comes, and the name that it gets there; none for the content of a
/// folder.
fn place_outward(
    path: &GuestPath,
    base: Option<OsString>,
    is_folder: bool,
    to: &Path,
) -> Result<(PathBuf, Option<OsString>), Failure> {
    let shown = to.display();
    let split = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        (parent.unwrap_or(Path::new(".")).to_owned(), path.file_name().map(OsString::from))
    };
    match std::fs::metadata(to) {
        Ok(there) if there.is_dir() => Ok((to.to_owned(), base)),
        Ok(there) if !there.is_file() => Err(Failure::new(format!(
            "invalid output path: {shown} must be a directory or a regular file"
        ))),
        Ok(_) if is_folder => {
            Err(Failure::new(format!("cannot copy directory {} over a file", path.text())))
        }
        Ok(_) => Ok(split(&to.canonicalize().map_err(|error| broken(to, &error))?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if to.is_symlink() {
                return Err(Failure::new(format!("{shown} is a symbolic link to nothing")));
            }
            let (parent, name) = split(to);
            if !parent.is_dir() {
                let parent = parent.display();
                return Err(Failure::new(format!(
                    "invalid output path: directory {parent} does not exist"
                )));
            }
            if asserts_folder(to.as_os_str().as_bytes()) && !is_folder {
                return Err(Failure::new(format!("{shown}: no such directory")));
            }
            Ok((parent, name))
        }
        Err(error) => Err(broken(to, &error)),
    }
}

fn broken(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

/// The other end of a stream, or standard output, is gone.
fn lost(error: io::Error) -> Failure {
    Failure::new(format!("copy the archive: {error}"))
}

/// Counts what goes through.
struct Counted<T> {
    inner: T,
    bytes: u64,
}

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads an archive to its end. An archive that breaks off has its reason in what the guest says.
fn receive(
    copying: Copying,
    take: impl FnOnce(&mut dyn Read) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut stream = Counted { inner: copying.stream(), bytes: 0 };
    let taken = take(&mut stream);
    if taken.is_ok() {
        // What comes after the end of the archive is padding.
        io::copy(&mut stream, &mut io::sink()).map_err(lost)?;
    }
    let bytes = stream.bytes;
    match (taken, copying.finish()) {
        (Ok(()), finished) => finished.map(|()| bytes).map_err(Failure::from),
        (Err(failure), Ok(())) => Err(failure),
        // The guest failed because nobody read, or nobody could read because the guest failed.
        (Err(failure), Err(_)) if !failure.message().contains("cut short") => Err(failure),
        (Err(_), Err(error)) => Err(error.into()),
    }
}

/// From the host to the container.
fn inward(flags: &args::Cp, guest: &Guest, from: &Place, path: &GuestPath) -> Result<u64, Failure> {
    let destination = || format!("destination \"{}:{}\"", guest.name, path.text());
    let (to, kind) = guest.follow(path)?;
    let local = match from {
        Place::Local(local) => local,
        _ => {
            if kind != Some(Kind::Folder) {
                return Err(Failure::new(format!("{} must be a directory", destination())));
            }
            // Owners are what an archive says they are.
            let copying = guest.engine.copy_in(&guest.container, to.text(), true)?;
            return send(copying, |out| {
                io::copy(&mut io::stdin().lock(), out).map(drop).map_err(lost)
            });
        }
    };
    let bytes = local.as_os_str().as_bytes();
    let asserted = asserts_folder(bytes);
    let look =
        if flags.follow_link || asserted { std::fs::metadata } else { std::fs::symlink_metadata };
    let metadata = look(local.as_path()).map_err(|error| broken(local, &error))?;
    if asserted && !metadata.is_dir() {
        return Err(Failure::new(format!("{}: not a directory", local.display())));
    }
    let base = if is_content(bytes) { None } else { Some(pack::name_of(local)?) };
    let (folder, name) = match kind {
        Some(Kind::Folder) => (to, base),
        Some(Kind::File) if path.asserts_folder => {
            return Err(Failure::new(format!("{}: not a directory", path.text())));
        }
        Some(Kind::File) if metadata.is_dir() => {
            return Err(Failure::new(format!(
                "cannot copy directory {} over a file",
                local.display()
            )));
        }
        Some(Kind::Other | Kind::Link) => {
            let must = "must be a directory or a regular file";
            return Err(Failure::new(format!("{} {must}", destination())));
        }
        None if path.asserts_folder && !metadata.is_dir() => {
            return Err(Failure::new(format!("{}: no such directory", path.text())));
        }
        Some(Kind::File) | None => {
            let parent = to.parent();
            if guest.follow(&parent)?.1 != Some(Kind::Folder) {
                return Err(guest.missing(&parent));
            }
            let name = to.name().map(OsString::from);
            (parent, name)
        }
    };
    let copying = guest.engine.copy_in(&guest.container, folder.text(), flags.archive)?;
    send(copying, |out| pack::pack(local, name.as_deref(), flags.follow_link, out))
}

/// Writes an archive to its end. A guest that has refused it says why.
fn send(
    mut copying: Copying,
    give: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let counted = Counted { inner: copying.stream(), bytes: 0 };
    let mut out = io::BufWriter::with_capacity(BUFFER, counted);
    let given = give(&mut out).and_then(|()| out.flush().map_err(lost));
    let (counted, _) = out.into_parts();
    if let Err(failure) = given {
        return match copying.finish() {
            Err(error) if failure.message().contains("copy the archive") => Err(error.into()),
            _ => Err(failure),
        };
    }
    let bytes = counted.bytes;
    // A stream that is closed already has its reason in what the guest says.
    let _ = copying.stream().shutdown(Shutdown::Write);
    copying.wait()?;
    Ok(bytes)
}
