//! mcr-testnet
#![forbid(unsafe_code)]
