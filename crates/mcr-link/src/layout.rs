//! Golden test of the layout that supervisor and worker share: `layout.txt` has, for a [`LINK_VERSION`], the words written to
//! the telemetry page and the trace ring, and the encoded messages and rule sets. Adopted workers may run another program, so
//! a change of the layout requires a new version.

mod memory;
mod messages;

use std::path::Path;

use crate::message::LINK_VERSION;

/// Environment variable; if set, the file is written for a new version.
const WRITE: &str = "MCR_WRITE_LAYOUT";

const HELP: &str = "\
the layout shared with workers differs from `layout.txt`.
If the change is intended: increment LINK_VERSION in crates/mcr-link/src/message.rs, and write the file with
    MCR_WRITE_LAYOUT=1 cargo test -p mcr-link layout
Otherwise: a word or an encoding has changed, and a worker of another build would misread it.";

#[test]
fn a_change_of_the_layout_requires_a_new_version() {
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
