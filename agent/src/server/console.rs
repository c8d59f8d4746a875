//! The debug console: a few words on a connection of their own, for a look at a guest that has no
//! shell. It sees all that the agent sees; so it is off, and nobody listens, unless the VM was
//! started with `husk.console=1`.

use std::{fs, io, io::Read, os::fd::AsFd, path::Path};

use husk_protocols::{id::ContainerId, stream::StreamToken};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, sleep},
};
use tokio_vsock::{VsockListener, VsockStream};

use crate::{
    failure,
    guest::Follower,
    stdio::{Streams, Tokens, is_host},
    supervisor::{ExecOrder, Supervisor, SupervisorError},
};

/// Whether it is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// Nobody listens.
    Off,
    /// Each connection is a session.
    On,
}

const HELP: &str = "help            this\n\
                    ps              processes of the guest\n\
                    containers      containers and their states\n\
                    mounts          mounts of the agent\n\
                    cgroups         control groups and their processes\n\
                    dmesg           the log, as lines of JSON; ends the session\n\
                    cat FILE        a file, or its first 64 KiB\n\
                    ls FOLDER       what is in a folder\n\
                    sh CONTAINER    a shell in a container, instead of this\n\
                    quit            the end\n";
const PROMPT: &[u8] = b"husk> ";
const MAX_LINE: usize = 4096;
const MAX_ANSWER: u64 = 64 << 10;
const MAX_ROWS: usize = 4096;
const CGROUPS: &str = "/sys/fs/cgroup";
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes sessions from now on.
pub fn serve(listener: VsockListener, supervisor: Supervisor, streams: Streams) {
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) if is_host(peer) => {
                    let session =
                        Session { supervisor: supervisor.clone(), streams: streams.clone() };
                    tokio::spawn(session.run(stream));
                }
                Ok(_) => {}
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    });
}

struct Session {
    supervisor: Supervisor,
    streams: Streams,
}

/// What comes after a line.
enum Next {
    Say(String),
    Log,
    Shell(ContainerId),
    End,
}

impl Session {
    async fn run(self, mut stream: VsockStream) {
        loop {
            if stream.write_all(PROMPT).await.is_err() {
                return;
            }
            let Some(line) = self.line(&mut stream).await else { return };
            match self.command(&line).await {
                Next::Say(text) => {
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Next::Log => {
                    if let Ok(follower) = Follower::new(7, true) {
                        follower.send(stream).await;
                    }
                    return;
                }
                Next::Shell(id) => return self.shell(id, stream).await,
                Next::End => return,
            }
        }
    }

    /// Byte by byte: what comes after a line may be a shell's.
    async fn line(&self, stream: &mut VsockStream) -> Option<String> {
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await.ok()? {
                b'\n' => return Some(String::from_utf8_lossy(&line).trim().to_owned()),
                _ if line.len() >= MAX_LINE => return None,
                byte => line.push(byte),
            }
        }
    }

    async fn command(&self, line: &str) -> Next {
        let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
        let (word, argument) = (word.to_owned(), argument.trim().to_owned());
        match word.as_str() {
            "" => return Next::Say(String::new()),
            "quit" | "exit" => return Next::End,
            "dmesg" => return Next::Log,
            "containers" => return Next::Say(self.containers().await),
            "sh" => {
                return match argument.parse() {
                    Ok(id) => Next::Shell(id),
                    Err(error) => Next::Say(format!("{error}\n")),
                };
            }
            _ => {}
        }
        let answer = move || match word.as_str() {
            "help" => Ok(HELP.to_owned()),
            "ps" => processes(),
            "mounts" => file(Path::new("/proc/self/mounts")),
            "cgroups" => Ok(cgroups()),
            "cat" => file(Path::new(&argument)),
            "ls" => folder(Path::new(&argument)),
            other => Ok(format!("{}: no such command; try help\n", other.escape_default())),
        };
        Next::Say(match tokio::task::spawn_blocking(answer).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => format!("{error}\n"),
            Err(_) => "the command has failed\n".to_owned(),
        })
    }

    async fn containers(&self) -> String {
        match self.supervisor.list().await {
            Ok(list) => list
                .iter()
                .map(|status| format!("{} {} {}\n", status.id, status.state, status.pid))
                .collect(),
            Err(error) => format!("{}\n", failure::line(&error)),
        }
    }

    /// The session becomes the shell's terminal, and ends with it.
    async fn shell(self, id: ContainerId, mut stream: VsockStream) {
        let order = match shell_order(id) {
            Ok(order) => order,
            Err(error) => {
                // One who has gone does not hear it.
                let _ = stream.write_all(format!("{}\n", failure::line(&error)).as_bytes()).await;
                return;
            }
        };
        let (order, token) = order;
        self.streams.offer(token, stream).await;
        // When it fails, the stream is closed with the claim.
        let _ = self.supervisor.exec(order).await;
    }
}

/// Host streams are counted from 1; these from the other end.
fn shell_order(container: ContainerId) -> Result<(ExecOrder, StreamToken), SupervisorError> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SHELLS: AtomicU64 = AtomicU64::new(1);
    let number = SHELLS.fetch_add(1, Ordering::Relaxed);
    let token = StreamToken::new(u64::MAX - number).ok_or(SupervisorError::Gone)?;
    let exec = format!("console-{number}").parse().map_err(|_| SupervisorError::Gone)?;
    let process = json!({
        "terminal": true,
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=vt100"],
        "cwd": "/",
    });
    let tokens = Tokens { stdout: Some(token), ..Tokens::default() };
    let process = process.to_string();
    Ok((ExecOrder::read(container, exec, process.as_bytes(), tokens, true)?, token))
}

/// Without waiting: not for a pipe's writer, and not for the end of an endless file.
fn file(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if nix::sys::stat::fstat(file.as_fd())?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::other("is no regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_ANSWER).read_to_end(&mut content)?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

fn folder(path: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)?.take(MAX_ROWS) {
        names.push(format!("{}\n", entry?.file_name().display()));
    }
    names.sort();
    Ok(names.concat())
}

fn processes() -> io::Result<String> {
    let mut rows = Vec::new();
    for entry in fs::read_dir("/proc")?.take(MAX_ROWS) {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Not its arguments: there may be secrets in them.
        if let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) {
            rows.push((pid, name));
        }
    }
    rows.sort();
    Ok(rows.into_iter().map(|(pid, name)| format!("{pid} {}\n", name.trim_end())).collect())
}

fn cgroups() -> String {
    let mut text = String::new();
    let mut folders = vec![Path::new(CGROUPS).to_owned()];
    let mut left = MAX_ROWS;
    while let (Some(folder), Some(rest)) = (folders.pop(), left.checked_sub(1)) {
        left = rest;
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let shown = folder.strip_prefix(CGROUPS).unwrap_or(&folder);
        text.push_str(&format!("/{} {}\n", shown.display(), processes.replace('\n', " ")));
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    text
}
