//! husk as a user meets it: commands typed, virtual machines booted, what comes out compared.
//! Each module is a theme. Nothing is skipped: what a test needs and does not find fails it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod attach;
mod change;
mod copy;
mod doctor;
mod exec;
mod failures;
mod flags_limits;
mod flags_security;
mod flags_surroundings;
mod hostile;
mod image_content;
mod images;
mod inside;
mod inspect;
mod kills;
mod life;
mod limits;
mod refused;
mod refused_machine;
mod run;
mod stdio;
mod terminal;
mod unprivileged;
