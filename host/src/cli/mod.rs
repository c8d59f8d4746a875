//! The command line: words in, words and exit codes out. Knows no VM: it asks the engine.
//!
//! Exit codes are docker's: 125 for husk's own failures, bad flags among them; 126 and 127 for
//! commands that cannot be executed or are not there; else the command's own.

mod args;
mod attached;
mod change;
mod containers;
mod cp;
mod doctor;
mod failure;
mod images;
mod inspect;
mod known;
mod logs;
mod ps;
mod run;
mod stats;
mod table;
mod template;
mod values;
mod version;
mod wishes;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser};
use serde_json::Value;

use self::args::{Cli, ErrorFormat, Verb};
use self::failure::{Failure, one_line};
use self::template::Template;

/// Runs the command that the process was called with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match dispatch(&cli.verb) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(cli.error_format);
            ExitCode::from(failure.exit_code)
        }
    }
}

/// Takes the words apart. docker's switches may have a value, as in `--rm=false`: the help does not
/// speak of it, so they get one only where somebody gave one.
fn parse<T: Into<OsString> + Clone>(words: impl Iterator<Item = T>) -> Result<Cli, clap::Error> {
    let words: Vec<T> = words.collect();
    let refused = match Cli::try_parse_from(words.iter().cloned()) {
        Err(error) if error.kind() == ErrorKind::TooManyValues => error,
        parsed => return parsed,
    };
    let with_value = |arg: Arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(values::switch),
        _ => arg,
    };
    let mut command = Cli::command().mut_subcommands(|verb| verb.mut_args(with_value));
    match command.try_get_matches_from_mut(words) {
        Err(error) if error.kind() == ErrorKind::TooManyValues => Err(refused),
        matches => Cli::from_arg_matches(&matches?),
    }
}

fn dispatch(verb: &Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Run(flags) => run::run(flags),
        Verb::Create(flags) => run::create(flags),
        Verb::Start(flags) => run::start(flags),
        Verb::Attach(flags) => run::attach(flags),
        Verb::Exec(flags) => run::exec(flags),
        Verb::Stop(flags) => containers::stop(flags),
        Verb::Kill(flags) => containers::kill(flags),
        Verb::Restart(flags) => change::restart(flags),
        Verb::Pause(flags) => change::pause(flags),
        Verb::Unpause(flags) => change::unpause(flags),
        Verb::Update(flags) => change::update(flags),
        Verb::Rename(flags) => change::rename(flags),
        Verb::Cp(flags) => cp::cp(flags),
        Verb::Top(flags) => change::top(flags),
        Verb::Stats(flags) => stats::stats(flags),
        Verb::Wait(flags) => containers::wait(flags),
        Verb::Rm(flags) => containers::rm(flags),
        Verb::Ps(flags) => ps::ps(flags),
        Verb::Logs(flags) => logs::logs(flags),
        Verb::Inspect(flags) => inspect::inspect(flags),
        Verb::Load(flags) => images::load(flags),
        Verb::Images(flags) => images::images(flags),
        Verb::Rmi(flags) => images::rmi(flags),
        Verb::Doctor(flags) => doctor::doctor(flags),
        Verb::Version(flags) => version::version(flags),
    }
}

/// What the process was called with, for people: words may be any bytes.
fn words() -> impl Iterator<Item = String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned())
}

/// What clap did not take: help and version go to standard output, the rest is one line and 125.
fn refuse(error: &clap::Error) -> ExitCode {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let failure = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is there to be told that nobody is there.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Failure::new("no command (see husk --help)")
        }
        ErrorKind::InvalidSubcommand => {
            known::unknown_verb(&context(ContextKind::InvalidSubcommand).unwrap_or_default())
        }
        ErrorKind::UnknownArgument => {
            let verb = words().skip(1).find(|word| !word.starts_with('-'));
            let word = context(ContextKind::InvalidArg).unwrap_or_default();
            known::unknown_flag(&verb.unwrap_or_default(), &word)
        }
        ErrorKind::ValueValidation => match std::error::Error::source(error) {
            // docker's words.
            Some(reason) => {
                let verb = words().skip(1).find(|word| !word.starts_with('-'));
                let flag = context(ContextKind::InvalidArg).unwrap_or_default();
                let flag = flag.split(' ').next().unwrap_or_default();
                let value = context(ContextKind::InvalidValue).unwrap_or_default();
                let message = format!("invalid argument {value:?} for {flag:?} flag: {reason}");
                Failure::new(message).during(&verb.unwrap_or_default())
            }
            None => Failure::new(one_line(&error.to_string())),
        },
        _ => Failure::new(one_line(&error.to_string())),
    };
    failure.print(error_format_of_words());
    ExitCode::from(failure.exit_code)
}

/// `--error-format json` counts even where clap gave up on the rest.
fn error_format_of_words() -> ErrorFormat {
    let words: Vec<String> = words().collect();
    let json = words.iter().any(|word| word == "--error-format=json")
        || words.windows(2).any(|pair| pair[0] == "--error-format" && pair[1] == "json");
    if json { ErrorFormat::Json } else { ErrorFormat::Text }
}

/// Prints a line on standard output. A reader that has gone away ends the program in silence, as
/// it does for every filter.
fn print_line(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Does something to each of several objects; one that fails does not keep the others from it.
fn for_each(
    verb: &str,
    names: &[String],
    mut act: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut failed: Option<Failure> = None;
    for name in names {
        if let Err(failure) = act(name) {
            let failure = failure.during(&format!("{verb} {name}"));
            if let Some(earlier) = failed.replace(failure) {
                earlier.print(error_format_of_words());
            }
        }
    }
    failed.map_or(Ok(0), Err)
}

/// Prints rows as `--format` asks: a table, JSON a line, or a template a line.
fn print_rows(
    format: &str,
    heading: &[&str],
    fields: &[&str],
    rows: &[Value],
) -> Result<(), Failure> {
    let cell = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let columns = |row: &Value| fields.iter().map(|field| cell(row, field)).collect();
    match format {
        "table" => {
            let rows: Vec<Vec<String>> = rows.iter().map(columns).collect();
            print_line(table::layout(heading, &rows).trim_end());
        }
        "json" => rows.iter().for_each(|row| print_line(&row.to_string())),
        text => {
            let template = Template::parse(text).map_err(Failure::new)?;
            for row in rows {
                print_line(&template.render(row).map_err(Failure::new)?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_stop_at_the_image() {
        let words = ["husk", "run", "-it", "--rm", "img", "ls", "--rm", "-l", "--name"];
        let Verb::Run(run) = Cli::try_parse_from(words).unwrap().verb else { panic!() };
        assert!(run.common.process.interactive && run.common.process.tty && run.common.rm);
        assert_eq!(run.words, ["img", "ls", "--rm", "-l", "--name"]);
    }

    #[test]
    fn switches_may_have_a_value_and_the_last_word_counts() {
        let words = ["husk", "run", "-it", "--rm=false", "--privileged=1", "-m", "1g", "-m", "2g"];
        let words = words.iter().chain(&["-e", "A=1", "-e", "B=2", "--rm=t", "img", "--rm=x"]);
        let Verb::Run(run) = parse(words).unwrap().verb else { panic!() };
        let common = &run.common;
        assert!(common.process.interactive && common.process.tty && common.rm);
        assert!(common.security.privileged);
        assert_eq!(common.limits.memory, Some(2 << 30));
        assert_eq!(common.process.env, ["A=1", "B=2"]);
        assert_eq!(run.words, ["img", "--rm=x"]);
        let words = ["husk", "run", "--rm", "--rm=false", "img"];
        let Verb::Run(run) = parse(words.iter()).unwrap().verb else { panic!() };
        assert!(!run.common.rm);
        assert!(parse(["husk", "run", "--rm=maybe", "img"].iter()).is_err());
    }

    #[test]
    fn unknown_flag_before_the_image_is_not_taken_for_one() {
        let words = ["husk", "run", "--bogus", "img"];
        let Verb::Run(run) = Cli::try_parse_from(words).unwrap().verb else { panic!() };
        let failure = run::run(&run).unwrap_err();
        assert!(failure.message().contains("unknown flag: --bogus"), "{}", failure.message());
        assert_eq!(failure.exit_code, 125);
    }
}
