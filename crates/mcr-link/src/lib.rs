//! mcr-link
#![forbid(unsafe_code)]
