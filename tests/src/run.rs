//! Commands with a deadline: what they print is captured, and one that does not end is killed and
//! reported with what its installation has to say.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::Bed;
use crate::wait::{PATIENCE, within};

/// A command about to run.
pub struct Run<'a> {
    bed: &'a Bed,
    command: Command,
    words: String,
    stdin: Vec<u8>,
    keep_stdin: bool,
    deadline: Duration,
}

/// How a command ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Output {
    /// What was run.
    pub words: String,
    /// As a shell's `$?`.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    logs: String,
}

impl<'a> Run<'a> {
    /// A command with the installation's variables in its environment.
    pub fn new(bed: &'a Bed, program: &OsStr, words: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(words).envs(bed.variables());
        let name = program.to_string_lossy();
        let words = format!("{} {}", name.rsplit('/').next().unwrap_or_default(), words.join(" "));
        Self { bed, command, words, stdin: Vec::new(), keep_stdin: false, deadline: PATIENCE }
    }

    /// What it reads before its input ends.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Leaves its input open after what [`Run::stdin`] said.
    #[must_use]
    pub fn keep_stdin(mut self) -> Self {
        self.keep_stdin = true;
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// A variable that it does not get.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Its working directory.
    #[must_use]
    pub fn dir(mut self, dir: &std::path::Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(mut self) -> Running<'a> {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut child =
            self.command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", self.words));
        let mut input = child.stdin.take().expect("standard input is a pipe");
        let (bytes, keep) = (std::mem::take(&mut self.stdin), self.keep_stdin);
        let feeder = thread::spawn(move || {
            // A command need not read what it is given.
            let _ = input.write_all(&bytes);
            keep.then_some(input)
        });
        let stdout = Captured::new(child.stdout.take().expect("standard output is a pipe"));
        let stderr = Captured::new(child.stderr.take().expect("standard error is a pipe"));
        let Self { bed, words, deadline, .. } = self;
        let feeder = Some(feeder);
        Running { bed, words, child, feeder, stdout, stderr, began, deadline, status: None }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn output(self) -> Output {
        self.spawn().wait()
    }

    /// Runs it to its end, which must be success.
    ///
    /// # Panics
    /// When it does not succeed.
    pub fn ok(self) -> Output {
        self.output().code(0)
    }
}

/// A pipe that a thread empties.
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Captured {
    fn new(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                lock(&sink).extend_from_slice(&buffer[..count]);
            }
        });
        Self { bytes, thread }
    }

    fn so_far(&self) -> Vec<u8> {
        lock(&self.bytes).clone()
    }
}

fn lock(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that runs. Killed when dropped.
pub struct Running<'a> {
    bed: &'a Bed,
    words: String,
    child: Child,
    feeder: Option<JoinHandle<Option<std::process::ChildStdin>>>,
    stdout: Captured,
    stderr: Captured,
    began: Instant,
    deadline: Duration,
    status: Option<ExitStatus>,
}

impl Running<'_> {
    /// Its pid.
    ///
    /// # Panics
    /// Never: pids fit.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is positive and fits"))
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended and was waited for.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap_or_else(|error| panic!("signal {}: {error}", self.words));
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn stdout_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stdout.so_far()).into_owned()
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    /// Waits until its standard output holds `text`.
    ///
    /// # Panics
    /// When it never does.
    pub fn expect(&mut self, text: &str) {
        let deadline = self.deadline;
        let seen = within(deadline, || {
            let ended = self.poll();
            let found = self.stdout_so_far().contains(text);
            (found || ended).then_some(found)
        });
        if seen != Some(true) {
            let (out, err) = (self.stdout_so_far(), self.stderr_so_far());
            let logs = self.bed.logs();
            panic!("{}: no {text:?} in\n{out}\nstderr:\n{err}\n{logs}", self.words);
        }
    }

    fn poll(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status.is_some()
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        // The thread ends when everything is written; what it gives back is the pipe.
        drop(self.feeder.take().map(JoinHandle::join));
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it does not in time.
    #[must_use]
    pub fn wait(mut self) -> Output {
        let deadline = self.deadline.saturating_sub(self.began.elapsed() / crate::wait::patience());
        if within(deadline, || self.poll().then_some(())).is_none() {
            let logs = self.bed.logs();
            panic!(
                "{}: still running after {:?}\nstdout:\n{}\nstderr:\n{}\n{logs}",
                self.words,
                self.deadline,
                self.stdout_so_far(),
                self.stderr_so_far()
            );
        }
        let closed =
            || (self.stdout.thread.is_finished() && self.stderr.thread.is_finished()).then_some(());
        assert!(
            within(PATIENCE, closed).is_some(),
            "{}: ended, but somebody it left behind holds its output open",
            self.words
        );
        let status = self.status.expect("it has ended");
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(127));
        Output {
            words: self.words.clone(),
            code,
            stdout: self.stdout.so_far(),
            stderr: self.stderr.so_far(),
            logs: if code == 0 { String::new() } else { self.bed.logs() },
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.poll() {
            // Whoever drops a running command has given it up.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Output {
    /// Standard output as text, without the newline at its end.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// Standard error as text, without the newline at its end.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end_matches('\n').to_owned()
    }

    /// Checks the exit code.
    ///
    /// # Panics
    /// When it is another one.
    pub fn code(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "{}: exit code {} instead of {code}\nstdout:\n{}\nstderr:\n{}\n{}",
            self.words,
            self.code,
            self.out(),
            self.err(),
            self.logs
        );
        self
    }

    /// Checks that the command was refused as design has it: the exit code, nothing on standard
    /// output, one line on standard error. Gives that line.
    ///
    /// # Panics
    /// When it was not.
    pub fn refused(self, code: i32) -> String {
        let output = self.code(code);
        let line = output.err();
        assert!(
            line.starts_with("husk: ") && !line.contains('\n') && output.stderr.ends_with(b"\n"),
            "{}: not one line that begins with \"husk: \":\n{line}",
            output.words
        );
        assert!(output.stdout.is_empty(), "{}: wrote {:?}", output.words, output.out());
        line
    }

    /// As [`Output::refused`], and the line holds each of `words`.
    ///
    /// # Panics
    /// When it does not.
    pub fn refused_with(self, code: i32, words: &[&str]) -> String {
        let what = self.words.clone();
        let line = self.refused(code);
        for word in words {
            assert!(line.contains(word), "{what}: no {word:?} in: {line}");
        }
        line
    }
}
