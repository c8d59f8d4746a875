//! System V shared memory and local sockets: what an ipc or network namespace shares.
#![allow(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use nix::{errno::Errno, libc};

/// The name of the segment, in whatever namespace.
const KEY: libc::key_t = 0x6875_736b;

fn segment(flags: libc::c_int) -> Result<libc::c_int, String> {
    // SAFETY: plain numbers.
    let id = unsafe { libc::shmget(KEY, 4096, flags) };
    Errno::result(id).map_err(|errno| errno.to_string())
}

/// `shm make`, `shm look`: a segment of one page, by its key.
pub fn shared_memory(args: &[&str]) -> Result<String, String> {
    match args {
        ["make"] => segment(libc::IPC_CREAT | libc::IPC_EXCL | 0o666).map(|_| "made".to_owned()),
        ["look"] => segment(0).map(|_| "found".to_owned()),
        _ => Err(format!("{args:?}: make or look")),
    }
}

/// `tcp serve PORT`, `tcp ask PORT`: a word over the loopback interface.
pub fn tcp(args: &[&str]) -> Result<String, String> {
    let address = |port: &str| format!("127.0.0.1:{port}");
    let said = |error: std::io::Error| error.to_string();
    match args {
        ["serve", port] => {
            let listener = TcpListener::bind(address(port)).map_err(said)?;
            println!("listening");
            let (mut stream, _) = listener.accept().map_err(said)?;
            stream.write_all(b"hello").map_err(said)?;
            Ok("served".to_owned())
        }
        ["ask", port] => {
            let mut word = String::new();
            let mut stream = TcpStream::connect(address(port)).map_err(said)?;
            stream.read_to_string(&mut word).map_err(said)?;
            Ok(word)
        }
        _ => Err(format!("{args:?}: serve or ask, and a port")),
    }
}
