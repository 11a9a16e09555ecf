//! mcr-worker
#![forbid(unsafe_code)]
