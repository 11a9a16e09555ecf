//! The multicast relay daemon. With `worker` as its first argument, the process is one of its workers; with `keeper`,
//! the process that holds what must outlive the supervisor; with `take-over`, another daemon's replacement; with
//! `observe`, it looks for a moment at what arrives.

mod arguments;
mod check;
#[cfg(test)]
mod manual;

use std::process::ExitCode;

use arguments::{Arguments, Parsed};
use mcr_supervisor::{DaemonError, run};
use mcr_sys::channel::Channel;

/// The daemon ended as it was asked to, or the file is valid.
const DONE: u8 = 0;
/// It could not start, or the file has errors.
const FAILED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    ExitCode::from(match arguments::parse() {
        Parsed::Worker => with_channel(|channel| Ok(mcr_worker::run(channel)?)),
        Parsed::Keeper(socket) => with_channel(|channel| Ok(mcr_supervisor::run_keeper(channel, &socket)?)),
        Parsed::TakeOver(arguments) => take_over(&arguments),
        Parsed::Observer { time } => observer(time),
        Parsed::Daemon(arguments) if arguments.check => check::check(&arguments.config()),
        Parsed::Daemon(arguments) => daemon(&arguments),
    })
}

fn daemon(arguments: &Arguments) -> u8 {
    ended(arguments.options().map(run))
}

fn take_over(arguments: &Arguments) -> u8 {
    let options = match arguments.options() {
        Ok(options) => options,
        Err(error) => return ended(Err(error)),
    };
    with_channel(|channel| Ok(mcr_supervisor::take_over(options, channel)?))
}

fn ended(result: anyhow::Result<Result<(), DaemonError>>) -> u8 {
    match result {
        Ok(Ok(())) => DONE,
        Ok(Err(error)) => {
            complain(&error, error.hint());
            FAILED
        }
        Err(error) => {
            complain(&*error, None);
            USAGE
        }
    }
}

/// The supervisor's channel is the standard input.
fn with_channel(work: impl FnOnce(Channel) -> anyhow::Result<()>) -> u8 {
    use std::os::fd::AsFd;
    let ended = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(anyhow::Error::from)
        .and_then(|channel| work(channel.into()));
    match ended {
        Ok(()) => DONE,
        Err(error) => {
            complain(&*error, None);
            FAILED
        }
    }
}

/// The socket is the standard input; what it saw goes to the standard output.
fn observer(time: std::time::Duration) -> u8 {
    use std::os::fd::AsFd;
    let ended = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(anyhow::Error::from)
        .and_then(|socket| Ok(mcr_worker::observer::run(&socket.into(), time, std::io::stdout())?));
    match ended {
        Ok(()) => DONE,
        Err(error) => {
            complain(&*error, None);
            FAILED
        }
    }
}

fn complain(error: &(dyn std::error::Error + '_), hint: Option<String>) {
    eprintln!("mcrd: {error}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
}
