//! `mcrd take-over`: this process replaces the supervisor that started it (see `handover`).

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_link::log::LogControl;
use mcr_link::message::{self, Incoming};
use mcr_rules::log::CONTROL;
use mcr_sys::channel::Channel;
use mcr_sys::network::NetworkMonitor;
use mcr_sys::poll::wait_readable;
use tokio::sync::mpsc;

use super::adoption::Adoption;
use super::start::{Server, own_identity, prepare, runtime};
use crate::control_server::{Access, ControlSocket};
use crate::handover::{FromReplacement, ToReplacement};
use crate::options::{DaemonError, DaemonOptions};
use crate::request::MAX_WAITING_REQUESTS;

/// The version, common to all crates.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The supervisor hands over, or has exited, within this time: it may have to complete a change first.
const TURN_DEADLINE: Duration = Duration::from_secs(60);

/// Replaces the supervisor at the other end of the channel and runs until SIGTERM or SIGINT.
///
/// # Errors
/// Why it can't. The supervisor gets a message and continues.
pub fn take_over(options: DaemonOptions, channel: Channel) -> Result<(), DaemonError> {
    let log = LogControl::start(&options.log_levels, options.log_json);
    log.spawn_writer();
    let result = succeed(options, log, &channel);
    if let Err(error) = &result {
        // It may have exited, or have received `Confirmed` before.
        let _ = message::send(&channel, &FromReplacement::Failed { reason: error.to_string() }, &[]);
    }
    result
}

fn succeed(options: DaemonOptions, log: LogControl, channel: &Channel) -> Result<(), DaemonError> {
    let own_uid = own_identity()?;
    let access = Access::look_up(own_uid, options.observers.as_deref())?;
    runtime()?.block_on(async {
        // Everything that can be tested without side effects.
        NetworkMonitor::open()?.dump()?;
        Adoption::check_adoptable(&options, own_uid)?;
        tell(channel, &FromReplacement::Ready { version: VERSION.to_owned() })?;
        let [listener, lock] = await_turn(channel)?;
        let socket = ControlSocket::adopt(&options.socket, listener, lock)?;
        let adoption = Adoption::find(&options.socket, own_uid)?;
        let (requests, received) = mpsc::channel(MAX_WAITING_REQUESTS);
        let server = Server::waiting(socket, access, requests)?;
        let (daemon, sources) = prepare(options, log, received, Some(adoption), None)?;
        daemon.run(sources, server, Some(channel)).await
    })
}

/// Sends `Confirmed` to the predecessor.
pub(super) fn confirm(channel: &Channel) {
    tracing::info!(target: CONTROL, "took over from the previous mcrd");
    if let Err(error) = tell(channel, &FromReplacement::Confirmed) {
        tracing::warn!(target: CONTROL, "the previous mcrd has already exited: {error}");
    }
}

fn tell(channel: &Channel, what: &FromReplacement) -> Result<(), DaemonError> {
    message::send(channel, what, &[]).map_err(|error| DaemonError::TakeOver(error.to_string()))
}

fn await_turn(channel: &Channel) -> Result<[OwnedFd; 2], DaemonError> {
    let failed = |reason: &str| DaemonError::TakeOver(reason.to_owned());
    wait_readable([channel.as_fd()], Some(TURN_DEADLINE))?;
    match message::receive::<ToReplacement>(channel) {
        Ok(Incoming::Message(ToReplacement::HandOver, fds)) => {
            fds.try_into().map_err(|_| failed("the control socket did not come along"))
        }
        Ok(Incoming::WouldBlock) => Err(failed("the mcrd before does not hand over")),
        Ok(Incoming::Closed) => Err(failed("the mcrd before is gone")),
        Err(error) => Err(failed(&error.to_string())),
    }
}
