//! Everything that needs `unsafe`: one file per kernel facility, each with a safe face.
#![cfg(target_os = "linux")]

mod error;
pub mod mmsg;

pub use error::{Result, SysError};
