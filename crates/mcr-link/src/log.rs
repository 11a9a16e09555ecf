//! The log of a process: lines to standard error that never block the caller. Levels and facilities are
//! [`mcr_rules::log`]'s.

mod control;
mod sink;

pub use self::control::LogControl;
