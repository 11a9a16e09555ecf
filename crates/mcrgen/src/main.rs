//! `mcrgen`: sends test datagrams, and verifies received ones (see `mcrgen --help`).
//!
//! ```text
//!  cli ─▶ send ─▶ round_robin (stream) ─▶ framing, payload ─▶ transmitter ─▶ line (leg) ─▶ sendmmsg
//!                 pacing (time)                                              delay (its path)
//!  cli ─▶ replay ─▶ capture (pcap, pcapng) ─────────────────▶ line ─▶ sendmmsg
//!  cli ─▶ recv ─▶ listener ─▶ recvmmsg ─▶ payload ─▶ account, latency ─▶ report
//!                 ending (limits)
//! ```

mod account;
mod cli;
mod framing;
mod groups;
mod interrupt;
mod latency;
mod legs;
#[cfg(test)]
mod manual;
mod pacing;
mod payload;
mod progress;
mod recv;
mod report;
mod send;
mod sizes;

use anyhow::{Context, Result};
use clap::Parser;
use cli::{Arguments, Command, RecvArguments};
use interrupt::Interrupt;
use report::RecvReport;
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mcrgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    let mut interrupt = Interrupt::new()?;
    match command {
        Command::Send(arguments) => {
            let report = send::run(arguments, &mut interrupt)?;
            print(&report, arguments.streams.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Replay(arguments) => {
            let report = send::replay::run(arguments, &mut interrupt)?;
            print(&report, arguments.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Recv(arguments) => {
            let report = recv::run(arguments, &mut interrupt)?;
            print(&report, arguments.streams.json)?;
            Ok(if is_acceptable(arguments, &report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// Returns whether the loss is within `--max-loss`; without any datagram it is unknown, which fails.
fn is_acceptable(arguments: &RecvArguments, report: &RecvReport) -> bool {
    arguments
        .max_loss
        .is_none_or(|limit| report.account.totals.received > 0 && report.account.totals.lost <= limit)
}

fn print(report: &(impl Serialize + Display), json: bool) -> Result<()> {
    let text = if json { serde_json::to_string(report)? + "\n" } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("write the report")
}
