//! Virtual machine monitor.
