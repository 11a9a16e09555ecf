//! mcrgen
#![forbid(unsafe_code)]
fn main() {}
