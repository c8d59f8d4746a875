//! A back end for tests, by crate vhost: it serves whatever rings it is given.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, poll};
use vhost::vhost_user::BackendReqHandler;
use virtio_queue::Queue;

use crate::Memory;
use crate::vhost_user::backend::Backend;
use crate::virtio::queue::{self, Limits, Request, Served};

/// Answers what it reads from a queue in capitals: the device's end, and the thread that ends with
/// the connection.
pub fn honest() -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let backend = Arc::new(Mutex::new(Backend::new(3)));
        let watched = theirs.try_clone().unwrap();
        let mut requests = BackendReqHandler::from_stream(theirs, backend.clone());
        loop {
            let kicks: Vec<_> = {
                let mut backend = backend.lock().unwrap();
                let (_, vrings) = backend.parts();
                vrings.iter().filter_map(|vring| vring.kick()?.try_clone().ok()).collect()
            };
            let mut wanted = vec![PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
            wanted.extend(kicks.iter().map(|kick| PollFd::new(kick.as_fd(), PollFlags::POLLIN)));
            poll(&mut wanted, 10_000u16).unwrap();
            let asked = wanted[0].any().unwrap();
            if asked && requests.handle_request().is_err() {
                return;
            }
            kicks.iter().for_each(|mut kick| drop(kick.read(&mut [0; 8])));
            let mut backend = backend.lock().unwrap();
            let (memory, vrings) = backend.parts();
            for vring in vrings {
                let Some(queue) = vring.running() else { continue };
                match answer_in_capitals(memory.guest(), queue) {
                    Some(true) => vring.notify(),
                    Some(false) => {}
                    // Rings that lie.
                    None => vring.give_up(),
                }
            }
        }
    });
    (ours, thread)
}

/// Whether the guest wants to know. `None` of a queue that is none.
fn answer_in_capitals(memory: &Memory, queue: &mut Queue) -> Option<bool> {
    let limits = Limits { descriptors: 8, readable: 4096, writable: 4096 };
    let outcome = queue::pass(queue, memory, |chain| {
        let Ok(mut request) = Request::split(chain, memory, limits) else { return Served::Used(0) };
        let mut bytes = Vec::new();
        // What does not fit, or is not in memory, is not answered.
        let _ = request.reader.read_to_end(&mut bytes);
        let _ = request.writer.write_all(&bytes.to_ascii_uppercase());
        Served::Used(request.writer.written())
    });
    outcome.ok().map(|outcome| outcome.notify)
}
