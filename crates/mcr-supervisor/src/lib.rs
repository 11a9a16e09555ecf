//! mcr-supervisor
#![forbid(unsafe_code)]

pub mod control_server;
pub mod core;
pub mod request;
