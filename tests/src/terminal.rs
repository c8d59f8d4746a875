//! husk at a terminal: a pseudoterminal whose other side is the test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::{Pid, ttyname};

use crate::bed::Bed;
use crate::wait::{PATIENCE, within};

/// A husk command on a terminal. Killed when dropped.
pub struct Terminal<'a> {
    bed: &'a Bed,
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    line: OwnedFd,
    before: Termios,
}

impl<'a> Terminal<'a> {
    pub(crate) fn start(bed: &'a Bed, words: &[&str]) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal can be made");
        let before = tcgetattr(&pty.slave).expect("a terminal has attributes");
        let end = || pty.slave.try_clone().expect("a descriptor can be duplicated");
        // setsid makes the terminal the controlling one: signals of its keys and of its size
        // arrive as they do at a shell.
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(bed.bin())
            .args(words)
            .envs(bed.variables())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid of util-linux starts");
        let keyboard = File::from(pty.master);
        let mut reader = keyboard.try_clone().expect("a descriptor can be duplicated");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&screen);
        thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend(&buffer[..count]);
            }
        });
        Self { bed, child, keyboard, screen, line: pty.slave, before }
    }

    /// Everything that was shown so far.
    #[must_use]
    pub fn screen(&self) -> String {
        let bytes = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("a terminal takes what is typed");
    }

    /// Waits until `text` was shown.
    ///
    /// # Panics
    /// When it never is.
    pub fn expect(&self, text: &str) {
        let shown = || self.screen().contains(text).then_some(());
        if within(PATIENCE, shown).is_none() {
            panic!("no {text:?} on the screen:\n{}\n{}", self.screen(), self.bed.logs());
        }
    }

    /// Gives the terminal another size.
    ///
    /// # Panics
    /// When stty does not.
    pub fn resize(&self, rows: u16, columns: u16) {
        let path = ttyname(&self.line).expect("a terminal has a name");
        let status = Command::new("stty")
            .arg("-F")
            .arg(path)
            .args(["rows", &rows.to_string(), "columns", &columns.to_string()])
            .status()
            .expect("stty of coreutils starts");
        assert!(status.success(), "stty: {status}");
    }

    /// Whether husk has switched the terminal to raw mode.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let now = tcgetattr(&self.line).expect("a terminal has attributes");
        !now.local_flags.contains(LocalFlags::ICANON)
    }

    /// Sends husk a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid is positive and fits");
        kill(Pid::from_raw(pid), signal).expect("husk runs");
    }

    /// Waits until husk has ended, checks that the terminal is as it was before, and gives the
    /// exit code.
    ///
    /// # Panics
    /// When it does not end, or leaves the terminal changed.
    #[must_use]
    pub fn wait(&mut self) -> i32 {
        let ended = within(PATIENCE, || self.child.try_wait().expect("a child can be waited for"));
        let Some(status) = ended else {
            panic!("husk still runs; screen:\n{}\n{}", self.screen(), self.bed.logs());
        };
        let now = tcgetattr(&self.line).expect("a terminal has attributes");
        assert!(
            now == self.before,
            "the terminal is not as it was: {now:?}, was {:?}",
            self.before
        );
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(127))
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
