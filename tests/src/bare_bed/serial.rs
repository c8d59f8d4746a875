//! What a guest writes to its serial port, as it comes.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct State {
    text: Vec<u8>,
    first: Option<Instant>,
    ended: bool,
}

/// A thread that reads to the end.
#[derive(Debug)]
pub struct Serial {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Serial {
    /// Reads from now on.
    pub fn read(mut source: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let own = shared.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = source.read(&mut buffer).unwrap_or(0);
                let (state, changed) = &*own;
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                if count > 0 {
                    state.first.get_or_insert_with(Instant::now);
                }
                state.text.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                changed.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Waits until `wanted` is there. False when the guest ends before, or the time is up.
    pub fn wait_for(&self, wanted: &str, deadline: Duration) -> bool {
        let has = |state: &State| String::from_utf8_lossy(&state.text).contains(wanted);
        let (state, changed) = &*self.shared;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |state: &mut State| !state.ended && !has(state);
        let waited = changed.wait_timeout_while(state, deadline, waits);
        has(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Everything until now.
    pub fn text(&self) -> String {
        let state = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&state.text).into_owned()
    }

    /// When the first byte came.
    pub fn first(&self) -> Option<Instant> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).first
    }

    /// Everything, once the writers are gone.
    pub fn finish(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
        self.text()
    }
}
