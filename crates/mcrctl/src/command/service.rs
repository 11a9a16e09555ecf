//! `log-level`, `exporter`, `ping`, `version`, `completions`.

use std::path::Path;
use std::time::Instant;

use clap::CommandFactory;
use clap_complete::Shell;
use mcr_control::PROTOCOL_VERSION;
use mcr_control::method::{GetLogLevels, Ping, SetLogLevel, Upgrade};
use mcr_control::reply::StatusReply;
use serde::Serialize;

use super::config::absolute;
use super::{Daemon, Outcome, print_notices};
use crate::arguments::{Arguments, LogLevelAction};
use crate::exporter::serve;
use crate::failure::CommandFailure;
use crate::http::Address;
use crate::render;
use crate::screen::Screen;

pub(super) fn log_level(daemon: &Daemon, screen: &Screen, action: LogLevelAction) -> Outcome {
    match action {
        LogLevelAction::Get => daemon.show(screen, &GetLogLevels {}, render::log_levels),
        LogLevelAction::Set { level, facility } => {
            daemon.show(screen, &SetLogLevel { level, facility }, render::log_levels)
        }
    }
}

pub(super) fn exporter(daemon: &Daemon, screen: &Screen, listen: &Address) -> Outcome {
    let ready = |address: &Address| match address {
        Address::Tcp(address) => screen.say(format_args!("serving http://{address}/metrics")),
        Address::Unix(_) => screen.say(format_args!("serving /metrics on {address}")),
    };
    match serve(listen, &daemon.socket, daemon.timeout, ready) {
        Ok(never) => match never {},
        Err(error) => Err(CommandFailure::new(format_args!("can't listen on {listen}: {error}"))
            .hint("use another address: --listen ADDRESS:PORT or --listen unix:PATH")),
    }
}

pub(super) fn upgrade(daemon: &Daemon, screen: &Screen, binary: Option<&Path>) -> Outcome {
    daemon.show(screen, &Upgrade { binary: binary.map(absolute).transpose()? }, |reply| {
        format!("mcrd {} has taken over as process {}\n", reply.version, reply.pid)
    })
}

#[derive(Serialize)]
struct Pinged {
    round_trip_us: u64,
}

#[expect(clippy::disallowed_methods, reason = "measures the wait of the program")]
pub(super) fn ping(daemon: &Daemon, screen: &Screen) -> Outcome {
    let mut client = daemon.connect()?;
    let asked = Instant::now();
    client.call(&Ping {})?;
    let round_trip_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
    screen.show(&Pinged { round_trip_us }, || format!("mcrd replied in {round_trip_us} µs\n"))
}

#[derive(Serialize)]
struct Versions {
    mcrctl: &'static str,
    mcrd: Option<String>,
    protocol: String,
    notices: Vec<String>,
}

/// Shows the known versions, even if the protocol versions differ or the daemon can't be reached.
pub(super) fn version(daemon: &Daemon, screen: &Screen) -> Outcome {
    let asked = daemon.connect_unchecked().and_then(|mut client| {
        let version = client.version()?;
        Ok((version, client.status()?))
    });
    let (mcrd, protocol, status, outcome) = match asked {
        Ok((reply, status)) => (Some(reply.mcrd), reply.protocol, status, Ok(())),
        Err(failure) => (None, PROTOCOL_VERSION.to_owned(), StatusReply::default(), Err(failure)),
    };
    if !screen.json {
        print_notices(screen, &status);
    }
    let notices = status.notices;
    let versions = Versions { mcrctl: env!("CARGO_PKG_VERSION"), mcrd, protocol, notices };
    screen.show(&versions, || {
        let mcrd = versions.mcrd.as_deref().unwrap_or("unknown");
        format!("mcrctl    {}\nmcrd      {mcrd}\nprotocol  {}\n", versions.mcrctl, versions.protocol)
    })?;
    outcome
}

#[derive(Serialize)]
struct Script {
    shell: String,
    script: String,
}

/// Needs no daemon.
pub(super) fn completions(screen: &Screen, shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "mcrctl", &mut script);
    let script = Script { shell: shell.to_string(), script: String::from_utf8_lossy(&script).into_owned() };
    screen.show(&script, || script.script.clone())
}
