//! husk as a user meets it: commands typed, virtual machines booted, what comes out compared.
//! Each module is a theme. Nothing is skipped: what a test needs and does not find fails it.

mod inside;
mod limits;
mod run;
mod stdio;
