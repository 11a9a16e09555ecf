//! mcr-wire
#![forbid(unsafe_code)]
