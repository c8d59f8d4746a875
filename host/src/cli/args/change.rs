//! Verbs that change containers that are there, and look at what they use.

use clap::Args;

use super::{Containers, LimitFlags};

#[derive(Debug, Args)]
#[command(override_usage = "husk update [OPTIONS] CONTAINER [CONTAINER...]")]
pub struct Update {
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub containers: Containers,
}

#[derive(Debug, Args)]
pub struct Rename {
    pub container: String,
    #[arg(value_name = "NEW_NAME")]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct Top {
    pub container: String,
}

#[derive(Debug, Args)]
pub struct Stats {
    /// Those that do not run as well
    #[arg(short, long)]
    pub all: bool,
    /// Print once, and not again and again
    #[arg(long)]
    pub no_stream: bool,
    /// Do not cut ids
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a template like '{{.Name}}: {{.CPUPerc}}'
    #[arg(long, default_value = "table")]
    pub format: String,
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "husk cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-
       husk cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH")]
pub struct Cp {
    /// Keep owners and groups
    #[arg(short, long)]
    pub archive: bool,
    /// Follow a symbolic link that is SRC_PATH itself
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Do not say how much was copied
    #[arg(short, long)]
    pub quiet: bool,
    #[arg(value_name = "SRC_PATH")]
    pub source: std::ffi::OsString,
    #[arg(value_name = "DEST_PATH")]
    pub destination: std::ffi::OsString,
}
