//! The words of the command line, as clap understands them. Shapes only.

mod change;
mod limits;
mod security;
mod surroundings;

pub use change::{Cp, Rename, Stats, Top, Update};
pub use limits::{LimitFlags, ProcessLimitFlags};
pub use security::SecurityFlags;
pub use surroundings::{FilesystemFlags, NoteFlags, SurroundingsFlags};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::values;
use crate::hypervisor::Choice;
use crate::image::progress::Style;

/// OCI containers, each sandbox in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(
    name = "husk",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    args_override_self = true
)]
pub struct Cli {
    /// How errors are written.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub error_format: ErrorFormat,
    #[command(subcommand)]
    pub verb: Verb,
}

/// `--error-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ErrorFormat {
    /// One line.
    #[default]
    Text,
    /// `{code, message, hint}`.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a container and start it
    #[command(disable_help_flag = true)]
    Run(Run),
    /// Create a container
    #[command(disable_help_flag = true)]
    Create(Create),
    /// Start containers that are not running
    Start(Start),
    /// Join a running container's streams
    Attach(Attach),
    /// Run a command in a running container
    Exec(Exec),
    /// Stop containers: the stop signal, then SIGKILL
    Stop(Stop),
    /// Stop containers and start them again
    Restart(Stop),
    /// Send a signal to containers
    Kill(Kill),
    /// Freeze every process of containers
    Pause(Containers),
    /// Let them go on
    Unpause(Containers),
    /// Change limits of containers
    Update(Update),
    /// Give a container another name
    Rename(Rename),
    /// Wait until containers have ended and print their exit codes
    Wait(Containers),
    /// Remove containers
    Rm(Rm),
    /// List containers
    Ps(Ps),
    /// Copy files between a running container and the host
    Cp(Cp),
    /// List the processes of a container
    Top(Top),
    /// Show what containers use
    Stats(Stats),
    /// Print what a container wrote
    Logs(Logs),
    /// Print everything known of containers or images, as JSON
    Inspect(Inspect),
    /// Load images from an archive or a folder
    Load(Load),
    /// List images
    Images(Images),
    /// Remove images
    Rmi(Rmi),
    /// Tell what works on this machine, and what to do about what does not
    Doctor(Doctor),
    /// Print versions
    Version(Version),
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// table, json, or a template
    #[arg(long, default_value = "table")]
    pub format: String,
    /// What is to run virtual machines, as for run
    #[arg(long, env = "HUSK_HYPERVISOR", value_name = "auto|kvm|qemu")]
    pub hypervisor: Option<Choice>,
}

/// Containers by name, id, or the start of an id.
#[derive(Debug, Args)]
pub struct Containers {
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// What `run` and `create` share.
#[derive(Debug, Args)]
pub struct Common {
    #[command(flatten)]
    pub process: ProcessFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub process_limits: ProcessLimitFlags,
    #[command(flatten)]
    pub security: SecurityFlags,
    #[command(flatten)]
    pub surroundings: SurroundingsFlags,
    #[command(flatten)]
    pub filesystem: FilesystemFlags,
    #[command(flatten)]
    pub notes: NoteFlags,
    /// Name of the container
    #[arg(long)]
    pub name: Option<String>,
    /// Remove the container when it has ended
    #[arg(long)]
    pub rm: bool,
    /// Command that the image's and the given words are arguments of
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Signal that asks the container to end
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds between that and SIGKILL; -1 waits for ever
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub stop_timeout: Option<i64>,
    /// Write the container's id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<std::path::PathBuf>,
    /// What runs the virtual machine: auto, kvm or qemu; the configuration's or auto without it
    #[arg(long, env = "HUSK_HYPERVISOR", value_name = "auto|kvm|qemu")]
    pub hypervisor: Option<Choice>,
    /// How loading an image is shown
    #[arg(long, default_value_t, value_name = "auto|plain|none")]
    pub progress: Style,
    /// The same as --progress none
    #[arg(short, long)]
    pub quiet: bool,
    /// Where the image comes from: missing and never are the images that are loaded
    #[arg(long, value_name = "missing|never", value_parser = values::pull)]
    pub pull: Option<String>,
    /// The platform, which must be the host's
    #[arg(long, value_name = "OS[/ARCH]", value_parser = values::platform)]
    pub platform: Option<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
}

/// Flags of a process, for `run`, `create` and `exec`.
#[derive(Debug, Args)]
pub struct ProcessFlags {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable; a name alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// User, and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "husk run [OPTIONS] IMAGE [COMMAND] [ARG...]")]
pub struct Run {
    #[command(flatten)]
    pub common: Common,
    /// Print the id and leave the container running
    #[arg(short, long)]
    pub detach: bool,
    /// Pass signals on to the container
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub sig_proxy: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Say on standard error where the time went
    #[arg(long)]
    pub timings: bool,
    /// The image: its name, or oci:PATH[:TAG], oci-archive:PATH, docker-archive:PATH; then the
    /// command
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE"
    )]
    pub words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "husk create [OPTIONS] IMAGE [COMMAND] [ARG...]")]
pub struct Create {
    #[command(flatten)]
    pub common: Common,
    /// The image, as for run; then the command
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE"
    )]
    pub words: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Start {
    /// Join the streams
    #[arg(short, long)]
    pub attach: bool,
    /// Join standard input as well
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    #[command(flatten)]
    pub containers: Containers,
}

#[derive(Debug, Args)]
pub struct Attach {
    /// Do not join standard input
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on to the container
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub sig_proxy: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    pub container: String,
}

#[derive(Debug, Args)]
#[command(override_usage = "husk exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub struct Exec {
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Leave the command running
    #[arg(short, long)]
    pub detach: bool,
    /// Give the command every capability
    #[arg(long)]
    pub privileged: bool,
    /// Keys that leave the command running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// The container, then the command
    #[arg(
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CONTAINER"
    )]
    pub words: Vec<String>,
}

/// For `stop` and `restart`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds between the stop signal and SIGKILL; -1 waits for ever [default: the container's
    /// own, or 10]
    #[arg(
        short,
        long = "time",
        alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub time: Option<i64>,
    #[command(flatten)]
    pub containers: Containers,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    pub signal: String,
    #[command(flatten)]
    pub containers: Containers,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// Kill those that run; say nothing of those that are not there
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub containers: Containers,
}

#[derive(Debug, Args)]
pub struct Ps {
    /// Those that do not run as well
    #[arg(short, long)]
    pub all: bool,
    /// Ids alone
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not cut ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Only the last N created, in any state
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Only those that match: name=, id=, status=, ancestor=, exited=, label=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// table, json, or a template like '{{.ID}}: {{.Status}}'
    #[arg(long, default_value = "table")]
    pub format: String,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// With the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// The last lines only
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    pub tail: String,
    pub container: String,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A template like '{{.State.ExitCode}}', or json
    #[arg(short, long)]
    pub format: Option<String>,
    /// container or image; either without
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Load {
    /// Archive to load instead of standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "source")]
    pub input: Option<String>,
    /// Print ids alone
    #[arg(short, long)]
    pub quiet: bool,
    /// How loading is shown
    #[arg(long, default_value_t, value_name = "auto|plain|none")]
    pub progress: Style,
    /// oci:PATH[:TAG], oci-archive:PATH, docker-archive:PATH, a path, or - for standard input
    pub source: Option<String>,
}

#[derive(Debug, Args)]
pub struct Images {
    /// Ids alone
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not cut ids
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a template like '{{.Repository}}:{{.Tag}}'
    #[arg(long, default_value = "table")]
    pub format: String,
    /// Only this image
    pub reference: Option<String>,
}

#[derive(Debug, Args)]
pub struct Rmi {
    /// Remove all tags of an image; say nothing of those that are not there
    #[arg(short, long)]
    pub force: bool,
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Version {
    /// A template like '{{.Version}}', or json
    #[arg(short, long)]
    pub format: Option<String>,
}
