//! Generates the manual page, the completions and the reference from the command line.

use clap::CommandFactory;
use mcr_manual::{Committed, Program, program};

use crate::cli::Arguments;

const APPENDIX: &str = "\
## Exit status

| code | meaning |
|---|---|
| `0` | success |
| `1` | failure, or loss above `--max-loss` |
| `2` | wrong usage |

## See also

`mcrd(8)`, `mcrctl(1)`
";

#[test]
fn manual_completions_and_reference_match_the_command_line() {
    let command = Arguments::command();
    program(command, Program { section: "1", appendix: APPENDIX }).iter().for_each(Committed::assert_current);
}
