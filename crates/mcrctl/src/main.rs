//! `mcrctl`: the operator's command line.

mod arguments;
mod command;
mod explanation;
mod exporter;
mod failure;
mod format;
mod hangup;
mod http;
#[cfg(test)]
mod manual;
mod output_list;
mod pcapng;
mod rates;
mod render;
mod screen;
mod table;
mod top;
mod trace;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use screen::Screen;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut screen = Screen::new(arguments.json);
    match command::run(arguments, &mut screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If stderr is closed, the message is lost.
            let _ = write!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
