//! The manual page, the completions and the reference are those of this command line.

use clap::CommandFactory;
use mcr_manual::{Committed, Program, program};

use crate::cli::Arguments;

const APPENDIX: &str = "\
## Exit status

| code | meaning |
|---|---|
| `0` | done |
| `1` | it failed, or more was lost than `--max-loss` allows |
| `2` | wrong usage |

## See also

`mcrd(8)`, `mcrctl(1)`
";

#[test]
fn manual_completions_and_reference_are_of_this_command_line() {
    let command = Arguments::command();
    program(command, Program { section: "1", appendix: APPENDIX }).iter().for_each(Committed::assert_current);
}
