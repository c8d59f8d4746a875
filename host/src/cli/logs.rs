//! `logs`: what a container wrote, to the stream that it wrote to.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use super::args;
use super::failure::Failure;
use crate::engine::Engine;
use crate::engine::output_log::{Reader, Record, Stream};
use crate::engine::store::Container;

/// How often a followed log is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// `husk logs`.
pub fn logs(flags: &args::Logs) -> Result<u8, Failure> {
    let during = |failure: Failure| failure.during(&format!("logs {}", flags.container));
    print(flags).map_err(during)
}

fn print(flags: &args::Logs) -> Result<u8, Failure> {
    let tail = match flags.tail.as_str() {
        "all" => None,
        text => Some(
            text.parse::<usize>()
                .map_err(|_| Failure::new(format!("tail {text:?}: a number of lines, or all")))?,
        ),
    };
    let engine = Engine::open()?;
    let container = engine.find(&flags.container)?;
    let mut printer = Printer { timestamps: flags.timestamps, at_line_start: [true, true] };
    match follow(&engine, &container, flags.follow, tail, &mut printer) {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(Failure::new(error.to_string())),
        Ok(()) => Ok(0),
    }
}

fn follow(
    engine: &Engine,
    container: &Container,
    follow: bool,
    tail: Option<usize>,
    printer: &mut Printer,
) -> io::Result<()> {
    let mut reader = Reader::open(&container.dir.output_log())?;
    for record in last_lines(&mut reader, tail)? {
        printer.print(&record)?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        // Look at the container first: what it writes before its end is read after this look.
        let status = engine.settle(container).map_err(io::Error::other)?;
        let live = status.is_some_and(|container| container.status.is_live());
        while let Some(record) = reader.next_record()? {
            printer.print(&record)?;
        }
        if !live {
            return Ok(());
        }
        sleep(LOOK_AGAIN);
    }
}

/// All records, or those of the last `tail` lines.
fn last_lines(reader: &mut Reader, tail: Option<usize>) -> io::Result<VecDeque<Record>> {
    let mut kept = VecDeque::new();
    let mut lines = 0;
    while let Some(record) = reader.next_record()? {
        lines += usize::from(record.bytes.ends_with(b"\n"));
        kept.push_back(record);
        let open_line = |kept: &VecDeque<Record>| {
            usize::from(kept.back().is_some_and(|last| !last.bytes.ends_with(b"\n")))
        };
        while tail.is_some_and(|tail| lines + open_line(&kept) > tail) {
            let Some(first) = kept.pop_front() else { break };
            lines -= usize::from(first.bytes.ends_with(b"\n"));
        }
    }
    Ok(kept)
}

struct Printer {
    timestamps: bool,
    at_line_start: [bool; 2],
}

impl Printer {
    fn print(&mut self, record: &Record) -> io::Result<()> {
        let (index, mut sink): (usize, Box<dyn Write>) = match record.stream {
            Stream::Stdout => (0, Box::new(io::stdout())),
            Stream::Stderr => (1, Box::new(io::stderr())),
        };
        if self.timestamps && self.at_line_start[index] {
            write!(sink, "{:.9} ", record.time)?;
        }
        self.at_line_start[index] = record.bytes.ends_with(b"\n");
        sink.write_all(&record.bytes)?;
        sink.flush()
    }
}
