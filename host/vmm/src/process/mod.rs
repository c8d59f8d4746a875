//! The process of a VMM.

pub mod descriptors;
pub mod input;
pub mod meter;
