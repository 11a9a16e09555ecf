//! Runs a workload of the engine for `cargo xtask instructions`: `instructions CASE BATCHES`. Without arguments, prints the
//! names of the workloads.
#![expect(clippy::print_stdout, reason = "prints the results")]

use std::process::ExitCode;

use mcr_worker::instructions::CASES;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, batches] = arguments.as_slice() else {
        CASES.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    };
    let case = CASES.iter().find(|case| case.name == name);
    let (Some(case), Ok(batches)) = (case, batches.parse()) else { return ExitCode::from(2) };
    match case.run(batches) {
        Ok(datagrams) => {
            println!("{datagrams}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
