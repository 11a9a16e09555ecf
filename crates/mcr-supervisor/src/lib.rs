//! mcr-supervisor
#![forbid(unsafe_code)]
