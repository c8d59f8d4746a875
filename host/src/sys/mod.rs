//! Safe wrappers of the system calls that no crate wraps. The only unsafe code of this crate.

pub mod fd;
pub mod lock;
pub mod process;
pub mod tsc;
pub mod tty;
