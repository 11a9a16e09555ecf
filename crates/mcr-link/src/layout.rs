//! The golden layout of what supervisor and worker share, per [`LINK_VERSION`]: `layout.txt` holds what the version that
//! it names writes into the telemetry page and the trace ring, and how it encodes messages and rule sets. Adopted workers
//! may run another program, so a change of the layout needs another version.

mod memory;
mod messages;

use std::path::Path;

use crate::message::LINK_VERSION;

/// Set to write the file for a new version.
const WRITE: &str = "MCR_WRITE_LAYOUT";

const HELP: &str = "\
the layout shared with workers is not the one of `layout.txt`.
If the layout changed on purpose: increase LINK_VERSION in crates/mcr-link/src/message.rs, and write the file with
    MCR_WRITE_LAYOUT=1 cargo test -p mcr-link layout
If not: something that is written or encoded has moved. A worker of another build would misread it.";

#[test]
fn a_change_of_the_layout_increases_the_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("layout.txt");
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let current = format!("LINK_VERSION {LINK_VERSION}\n{}{}", memory::text(), messages::text());
    if golden == current {
        return;
    }
    let version = |text: &str| text.lines().next().map(str::to_owned);
    // The version is in the page, too, so a new one always changes the layout.
    if std::env::var_os(WRITE).is_some() && version(&golden) != version(&current) {
        std::fs::write(&path, current).unwrap();
        return;
    }
    let line = golden.lines().zip(current.lines()).position(|(old, new)| old != new).unwrap_or_default();
    let [old, new] = [&golden, &current].map(|text| text.lines().nth(line).unwrap_or_default().to_owned());
    panic!("line {}:\n  golden:  {old}\n  current: {new}\n{HELP}", line + 1);
}
