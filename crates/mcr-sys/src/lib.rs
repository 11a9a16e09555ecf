//! mcr-sys
