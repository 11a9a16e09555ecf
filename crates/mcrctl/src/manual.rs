//! Generates the manual page, the completions and the reference from the command line.

use clap::CommandFactory;
use mcr_manual::{Committed, Program, program};

use crate::arguments::Arguments;

const APPENDIX: &str = "\
## Exit status

| code | meaning |
|---|---|
| `0` | success |
| `1` | the request failed |
| `2` | wrong usage |
| `3` | mcrd can't be reached |

## Files

| file | meaning |
|---|---|
| `/run/mcr/mcrd.sock` | control socket of the host's mcrd |
| `/run/mcr/NAMESPACE/mcrd.sock` | control socket of `mcrd@NAMESPACE.service` |

## See also

`mcrd(8)`, `mcrgen(1)`, `mcr.json5(5)`
";

#[test]
fn manual_completions_and_reference_match_the_command_line() {
    let command = Arguments::command();
    program(command, Program { section: "1", appendix: APPENDIX }).iter().for_each(Committed::assert_current);
}
