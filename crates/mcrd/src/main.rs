//! The multicast relay daemon. The first argument selects another role: `worker`, `keeper`, `attach`, `take-over` (the
//! replacement of a running daemon) or `observe`.

mod arguments;
mod check;
#[cfg(test)]
mod manual;

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use arguments::{Arguments, Parsed};
use mcr_supervisor::{DaemonError, run};

/// The daemon stopped on request, or the file is valid.
const DONE: u8 = 0;
/// The daemon could not start, or the file has errors.
const FAILED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let parsed = arguments::parse();
    if let Some(name) = process_name(&parsed) {
        // Without it, ps(1) shows the name of the file that was executed: /proc/self/exe. A name is a convenience.
        let _ = rustix::thread::set_name(name);
    }
    ExitCode::from(match parsed {
        Parsed::Worker => with_stdin(|channel| Ok(mcr_worker::run(channel.into())?)),
        Parsed::Keeper(socket, sandbox) => {
            with_stdin(|channel| Ok(mcr_supervisor::run_keeper(channel.into(), &socket, sandbox)?))
        }
        Parsed::Attacher => with_stdin(|channel| Ok(mcr_supervisor::run_attacher(channel.into())?)),
        Parsed::TakeOver(arguments) => take_over(&arguments),
        // What it saw goes to the standard output.
        Parsed::Observer { time, sandbox } => with_stdin(|socket| {
            Ok(mcr_worker::observer::run(&socket.into(), time, sandbox, std::io::stdout())?)
        }),
        Parsed::Daemon(arguments) if arguments.check => check::check(&arguments.config()),
        Parsed::Daemon(arguments) => daemon(&arguments),
    })
}

/// The name of a process that the supervisor started, for ps(1); at most 15 bytes (proc_pid_comm(5)).
fn process_name(parsed: &Parsed) -> Option<&'static CStr> {
    match parsed {
        Parsed::Worker => Some(c"mcrd-worker"),
        Parsed::Keeper(..) => Some(c"mcrd-keeper"),
        Parsed::Attacher => Some(c"mcrd-attacher"),
        Parsed::Observer { .. } => Some(c"mcrd-observer"),
        Parsed::TakeOver(_) => Some(c"mcrd"),
        Parsed::Daemon(_) => None,
    }
}

fn daemon(arguments: &Arguments) -> u8 {
    ended(arguments.options().map(run))
}

fn take_over(arguments: &Arguments) -> u8 {
    let options = match arguments.options() {
        Ok(options) => options,
        Err(error) => return ended(Err(error)),
    };
    with_stdin(|channel| Ok(mcr_supervisor::take_over(options, channel.into())?))
}

fn ended(result: anyhow::Result<Result<(), DaemonError>>) -> u8 {
    match result {
        Ok(Ok(())) => DONE,
        Ok(Err(error)) => {
            print_error(&error, error.hint());
            FAILED
        }
        Err(error) => {
            print_error(&*error, None);
            USAGE
        }
    }
}

/// What the supervisor passed, a channel or a socket, is the standard input.
fn with_stdin(work: impl FnOnce(OwnedFd) -> anyhow::Result<()>) -> u8 {
    let passed = std::io::stdin().as_fd().try_clone_to_owned();
    match passed.map_err(anyhow::Error::from).and_then(work) {
        Ok(()) => DONE,
        Err(error) => {
            print_error(&*error, None);
            FAILED
        }
    }
}

fn print_error(error: &(dyn std::error::Error + '_), hint: Option<String>) {
    eprintln!("mcrd: {error}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
}
