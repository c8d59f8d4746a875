//! What a command says when it does not do what was asked: one line, the operation and its object
//! first, the cause last, a hint in brackets.

use std::io::Write;

use serde_json::json;

use super::args::ErrorFormat;
use crate::engine::error::{EXIT_HUSK, Error, chain};
use crate::image::{ImageError, SourceError};

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    /// What husk exits with.
    pub exit_code: u8,
    message: String,
}

impl Failure {
    /// A failure in one's own words.
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit_code: EXIT_HUSK, message: message.into() }
    }

    /// Puts the operation and its object before the cause.
    #[must_use]
    pub fn during(mut self, operation: &str) -> Self {
        self.message = format!("{operation}: {}", self.message);
        self
    }

    /// The whole line, without the program's name.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Prints it on standard error.
    pub fn print(&self, format: ErrorFormat) {
        let line = match format {
            ErrorFormat::Text => format!("husk: {}", self.message),
            ErrorFormat::Json => {
                let (message, hint) = split_hint(&self.message);
                json!({ "code": self.exit_code, "message": message, "hint": hint }).to_string()
            }
        };
        print_error_line(&line);
    }
}

/// Prints a line on standard error, which may be closed or full: then there is nobody to tell.
pub fn print_error_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A hint stands in brackets at the end.
fn split_hint(message: &str) -> (&str, Option<&str>) {
    let parts = message.strip_suffix(')').and_then(|rest| rest.rsplit_once(" ("));
    match parts {
        // What the standard library adds to the system's words.
        Some((_, hint)) if hint.starts_with("os error ") => (message, None),
        Some((message, hint)) => (message, Some(hint)),
        None => (message, None),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit_code: error.exit_code(), message: chain(&error) }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::new(chain(&error))
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::new(chain(&error))
    }
}

/// A line for `text` that a pipe of clap's made: up to the first empty line, in one.
pub fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_is_what_stands_in_the_last_brackets() {
        assert_eq!(split_hint("run x: no (do y)"), ("run x: no", Some("do y")));
        assert_eq!(split_hint("run x: no"), ("run x: no", None));
        assert_eq!(split_hint("x: no (os error 2)"), ("x: no (os error 2)", None));
    }

    #[test]
    fn failure_reads_from_the_outside_in() {
        let failure = Failure::new("not there").during("start web");
        assert_eq!(failure.message(), "start web: not there");
    }
}
