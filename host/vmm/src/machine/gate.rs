//! Where the threads of virtual CPUs wait while the guest does not run.
//!
//! ```text
//! Closed <--close/open--> Open      Closed, Open --shut--> Shut (the threads end)
//! ```

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::exit::Exit;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Closed,
    Open,
    Shut,
}

#[derive(Debug)]
struct State {
    position: Position,
    /// Threads that may still pass.
    threads: usize,
    /// Those of them that wait.
    waiting: usize,
    /// How the machine ended, the first of the answers.
    exit: Option<Exit>,
}

/// What a thread may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Run the guest.
    Run,
    /// Run it, after a wait.
    Resume,
    /// End.
    End,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// The gate has another position.
    turned: Condvar,
    /// A thread waits at it, or has left.
    arrived: Condvar,
}

impl Gate {
    /// A closed gate for so many threads.
    pub fn new(threads: usize) -> Self {
        let state = State { position: Position::Closed, threads, waiting: 0, exit: None };
        Self { state: Mutex::new(state), turned: Condvar::new(), arrived: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at a closed gate.
    pub fn pass(&self) -> Pass {
        let mut state = self.lock();
        let mut pass = Pass::Run;
        if state.position == Position::Closed {
            pass = Pass::Resume;
            state.waiting += 1;
            self.arrived.notify_all();
            state = self
                .turned
                .wait_while(state, |state| state.position == Position::Closed)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        if state.position == Position::Shut { Pass::End } else { pass }
    }

    /// A thread passes no more.
    pub fn leave(&self) {
        self.lock().threads -= 1;
        self.arrived.notify_all();
    }

    /// Lets the threads through.
    pub fn open(&self) {
        self.turn(Position::Open);
    }

    /// Stops the threads that come; [`Self::wait_for_all`] waits for them.
    pub fn close(&self) {
        self.turn(Position::Closed);
    }

    /// Ends the threads that come or wait.
    pub fn shut(&self) {
        self.turn(Position::Shut);
    }

    fn turn(&self, position: Position) {
        let mut state = self.lock();
        if state.position != Position::Shut {
            state.position = position;
        }
        self.turned.notify_all();
        // Who waits for threads at a closed gate waits no longer once it is open.
        self.arrived.notify_all();
    }

    /// Waits until every thread waits or has left, or the gate is no longer closed. False when that
    /// took longer than `timeout`.
    pub fn wait_for_all(&self, timeout: Duration) -> bool {
        let running =
            |state: &mut State| state.position == Position::Closed && state.waiting < state.threads;
        let waited = self.arrived.wait_timeout_while(self.lock(), timeout, running);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Notes how the machine ended, if nobody did before.
    pub fn end(&self, exit: Exit) {
        self.lock().exit.get_or_insert(exit);
    }

    /// How the machine ended, if it did by itself.
    pub fn exit(&self) -> Option<Exit> {
        self.lock().exit.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_closed_gate_holds_every_thread_until_it_opens() {
        let gate = Arc::new(Gate::new(3));
        let through = Arc::new(AtomicUsize::new(0));
        let runners: Vec<_> = (0..3)
            .map(|_| {
                let (gate, through) = (Arc::clone(&gate), Arc::clone(&through));
                thread::spawn(move || {
                    assert_eq!(gate.pass(), Pass::Resume);
                    through.fetch_add(1, Ordering::SeqCst);
                    while gate.pass() != Pass::End {
                        thread::sleep(Duration::from_millis(1));
                    }
                    gate.leave();
                })
            })
            .collect();
        assert!(gate.wait_for_all(LONG));
        assert_eq!(through.load(Ordering::SeqCst), 0);
        gate.open();
        while through.load(Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
        for _ in 0..100 {
            gate.close();
            assert!(gate.wait_for_all(LONG));
            gate.open();
        }
        gate.shut();
        gate.open();
        runners.into_iter().for_each(|runner| runner.join().unwrap());
        gate.close();
        assert!(gate.wait_for_all(LONG));
    }

    #[test]
    fn a_thread_that_does_not_come_is_not_waited_for_without_end() {
        let gate = Gate::new(1);
        assert!(!gate.wait_for_all(Duration::from_millis(1)));
        gate.leave();
        assert!(gate.wait_for_all(LONG));
    }

    #[test]
    fn the_first_end_is_the_end() {
        let gate = Gate::new(1);
        assert_eq!(gate.exit(), None);
        gate.end(Exit::Reset);
        gate.end(Exit::TripleFault);
        assert_eq!(gate.exit(), Some(Exit::Reset));
    }
}
