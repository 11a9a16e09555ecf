//! mcr-control
#![forbid(unsafe_code)]
