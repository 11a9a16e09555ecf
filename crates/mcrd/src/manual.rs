//! The manual page, the completions and the reference are those of this command line.

use clap::CommandFactory;
use mcr_manual::{Committed, Program, program};

use crate::arguments::Arguments;

const APPENDIX: &str = "\
## Signals

| signal | meaning |
|---|---|
| `SIGHUP` | read the startup file again and make the running config exactly what it says |
| `SIGTERM`, `SIGINT` | leave all groups, end the workers, and end |

## Exit status

| code | meaning |
|---|---|
| `0` | it ended as it was asked to, or the file is valid |
| `1` | it could not start, or the file has errors |
| `2` | wrong usage |

## Files

| file | meaning |
|---|---|
| `/etc/mcr/mcr.json5` | startup file, see `mcr.json5(5)` |
| `/run/mcr/mcrd.sock` | control socket, for `mcrctl(1)` and any Varlink client |

## See also

`mcrctl(1)`, `mcrgen(1)`, `mcr.json5(5)`
";

#[test]
fn manual_completions_and_reference_are_of_this_command_line() {
    let command = Arguments::command();
    program(command, Program { section: "8", appendix: APPENDIX }).iter().for_each(Committed::assert_current);
}
