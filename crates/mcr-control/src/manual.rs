//! The reference has the protocol's definition.

use mcr_manual::{Committed, REFERENCE};

const DEFINITION: &str = include_str!("io.mcr.Control.varlink");

#[test]
fn the_reference_has_the_definition() {
    let block = format!("```varlink\n{}\n```", DEFINITION.trim_end());
    Committed::part(REFERENCE, "protocol", block).assert_current();
}
