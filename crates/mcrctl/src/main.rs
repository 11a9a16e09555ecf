//! mcrctl
#![forbid(unsafe_code)]
fn main() {}
