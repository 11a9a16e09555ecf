//! mcr-rules
#![forbid(unsafe_code)]
