//! How far a load has come, told to whoever watches: bars on a terminal, plain lines elsewhere,
//! or nobody. Knows nothing of images.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Hears of one step after the other; steps do not overlap.
pub trait Progress {
    /// A step begins: `what` in a few words, and how many bytes it has where that is known.
    fn begin(&self, what: &str, total_bytes: Option<u64>);
    /// So many bytes more of the step are done.
    fn advance(&self, bytes: u64);
    /// The step is over, or was given up.
    fn end(&self);
}

/// How progress is to be shown (`--progress`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Bars on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// One line per step.
    Plain,
    /// Nothing.
    None,
}

impl FromStr for Style {
    type Err = UnknownStyle;

    fn from_str(text: &str) -> Result<Self, UnknownStyle> {
        match text {
            "auto" => Ok(Style::Auto),
            "plain" => Ok(Style::Plain),
            "none" => Ok(Style::None),
            _ => Err(UnknownStyle { text: text.to_owned() }),
        }
    }
}

/// A word that names no style of progress.
#[derive(Debug, thiserror::Error)]
#[error("unknown progress style {text:?} (auto, plain or none)")]
pub struct UnknownStyle {
    text: String,
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Style::Auto => "auto",
            Style::Plain => "plain",
            Style::None => "none",
        })
    }
}

/// The progress of this style on standard error. A bar is without colour when the environment
/// has a non-empty `NO_COLOR`.
pub fn on_stderr(style: Style) -> Box<dyn Progress> {
    match style {
        Style::None => Box::new(Silent),
        Style::Auto if std::io::stderr().is_terminal() => Box::new(Bars::new()),
        Style::Auto | Style::Plain => Box::new(Plain::new(std::io::stderr())),
    }
}

/// Says nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// One line when a step begins, with its size where that is known.
#[derive(Debug)]
pub struct Plain<W: Write> {
    out: Mutex<W>,
}

impl<W: Write> Plain<W> {
    /// Lines to `out`.
    pub fn new(out: W) -> Self {
        Plain { out: Mutex::new(out) }
    }
}

impl<W: Write> Progress for Plain<W> {
    fn begin(&self, what: &str, total_bytes: Option<u64>) {
        let Ok(mut out) = self.out.lock() else { return };
        // A closed standard error must not stop the load.
        let _ = match total_bytes {
            Some(bytes) => writeln!(out, "{what} ({})", human_bytes(bytes)),
            None => writeln!(out, "{what}"),
        };
    }

    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// A bar per step, on standard error.
pub struct Bars {
    current: Mutex<Option<ProgressBar>>,
    pending: AtomicU64,
    colour: bool,
}

impl Bars {
    /// Bars on standard error.
    pub fn new() -> Self {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Bars { current: Mutex::new(None), pending: AtomicU64::new(0), colour }
    }

    fn style(&self, known_total: bool) -> ProgressStyle {
        let template = match (known_total, self.colour) {
            (true, true) => "{msg:40!} [{bar:30.green/dim}] {bytes}/{total_bytes}",
            (true, false) => "{msg:40!} [{bar:30}] {bytes}/{total_bytes}",
            (false, true) => "{msg:40!} {spinner:.green} {bytes}",
            (false, false) => "{msg:40!} {spinner} {bytes}",
        };
        ProgressStyle::with_template(template)
            .expect("templates above are well formed")
            .progress_chars("=> ")
    }
}

impl Default for Bars {
    fn default() -> Self {
        Bars::new()
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, total_bytes: Option<u64>) {
        self.end();
        let Ok(mut current) = self.current.lock() else { return };
        let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
        bar.set_style(self.style(total_bytes.is_some()));
        bar.set_message(what.to_owned());
        *current = Some(bar);
    }

    fn advance(&self, bytes: u64) {
        /// Bytes between two looks at the bar: a look costs a lock and the time of day.
        const STRIDE: u64 = 256 << 10;
        let pending = self.pending.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if pending >= STRIDE {
            self.pending.store(0, Ordering::Relaxed);
            if let Ok(current) = self.current.lock()
                && let Some(bar) = current.as_ref()
            {
                bar.inc(pending);
            }
        }
    }

    fn end(&self) {
        self.pending.store(0, Ordering::Relaxed);
        if let Ok(mut current) = self.current.lock()
            && let Some(bar) = current.take()
        {
            bar.finish_and_clear();
        }
    }
}

/// `bytes` in the largest decimal unit that leaves a whole part, as docker prints sizes.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_prints_one_line_per_step() {
        let plain = Plain::new(Vec::new());
        plain.begin("unpack layer 1/2", Some(2_500_000));
        plain.advance(2_500_000);
        plain.end();
        plain.begin("write disk", None);
        plain.end();
        let text = String::from_utf8(plain.out.into_inner().unwrap()).unwrap();
        assert_eq!(text, "unpack layer 1/2 (2.5 MB)\nwrite disk\n");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(1000), "1.0 kB");
        assert_eq!(human_bytes(1_234_567), "1.2 MB");
        assert_eq!(human_bytes(u64::MAX), "18446.7 PB");
    }

    #[test]
    fn bars_take_steps_with_and_without_a_total() {
        let bars = Bars::new();
        for total in [Some(1 << 20), None] {
            bars.begin("step", total);
            bars.advance(1 << 19);
            bars.end();
            assert!(bars.current.lock().unwrap().is_none());
        }
    }
}
