//! The supervisor's connection to the attacher.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use mcr_rules::log::NETWORK;
use mcr_sys::channel::Channel;
use mcr_sys::clock;
use mcr_sys::process::PidFd;
use tokio::io::unix::AsyncFd;

use super::Executor;
use crate::async_fd::Watched;
use crate::attacher::{self, AttacherClient, Attention, Started};
use crate::core::early_drop::{Report, Wanted};
use crate::core::machine::{Machine, Outcome};
use crate::core::restart::Restart;

/// The attacher, and when one that ended may be replaced.
#[derive(Debug, Default)]
pub(super) struct AttacherLink {
    pub(super) client: Option<AttacherClient>,
    restart: Restart,
    since: Option<Duration>,
    /// It has said that it can't do anything.
    is_useless: bool,
}

impl Executor {
    /// Continues with an attacher that was started before.
    pub(crate) fn use_attacher(&mut self, Started { channel, process }: Started, now: Duration) -> Report {
        match AttacherClient::new(channel, process) {
            Ok(client) => {
                let link = &mut self.attacher;
                (link.client, link.since) = (Some(client), Some(now));
                Report::Present
            }
            Err(reason) => Report::Absent { reason, no_permission: false },
        }
    }

    /// Adopts the attacher of an earlier supervisor.
    pub(super) fn adopt_attacher(&mut self, fds: Vec<OwnedFd>) -> Result<(), String> {
        let [channel, process] =
            <[OwnedFd; 2]>::try_from(fds).map_err(|fds| format!("{} descriptors instead of 2", fds.len()))?;
        let process = PidFd::from(process);
        if process.has_ended().unwrap_or(true) {
            return Err("it ended while mcrd was away".to_owned());
        }
        self.attacher.client = Some(AttacherClient::new(Channel::from(channel), process)?);
        self.attacher.since = Some(clock::monotonic());
        Ok(())
    }

    /// Whether there is one.
    pub(crate) fn has_attacher(&self) -> bool {
        self.attacher.client.is_some()
    }

    /// Starts an attacher if there is none, this process may, and an attempt is due. Returns what is new.
    pub(crate) fn ensure_attacher(&mut self, now: Duration) -> Option<Report> {
        let link = &self.attacher;
        if link.client.is_some() || link.is_useless || !link.restart.is_due(now) {
            return None;
        }
        if !attacher::may_attach() {
            let reason = "mcrd has not got CAP_BPF and CAP_NET_ADMIN".to_owned();
            return Some(Report::Absent { reason, no_permission: true });
        }
        match attacher::start() {
            Ok(started) => Some(self.use_attacher(started, now)),
            Err(reason) => {
                tracing::warn!(target: NETWORK, "no early drop: {reason}");
                self.attacher.restart.refused(now);
                Some(Report::Absent { reason, no_permission: false })
            }
        }
    }

    /// When [`Self::ensure_attacher`] has work.
    pub(crate) fn attacher_deadline(&self) -> Option<Duration> {
        let AttacherLink { client, restart, is_useless, .. } = &self.attacher;
        let due = restart.not_before();
        (client.is_none() && !is_useless && !due.is_zero()).then_some(due)
    }

    /// Becomes readable when the attacher has sent a message, or ended.
    pub(crate) fn watch_attacher(&self) -> Option<Arc<AsyncFd<Watched<Channel>>>> {
        self.attacher.client.as_ref().map(AttacherClient::watch)
    }

    /// Reads the attacher's messages.
    pub(crate) fn read_attacher(&mut self, machine: &mut Machine, now: Duration) -> Vec<Report> {
        let Some(client) = &mut self.attacher.client else { return Vec::new() };
        match client.read() {
            Attention::States(states, programs) => {
                if let Some(programs) = programs {
                    self.kernel_programs(programs, machine, now);
                }
                states.into_iter().map(Report::Attached).collect()
            }
            Attention::Gone { reason, useless } => vec![self.attacher_lost(reason, useless, now)],
        }
    }

    fn attacher_lost(&mut self, reason: String, useless: bool, now: Duration) -> Report {
        let link = &mut self.attacher;
        if let Some(client) = link.client.take() {
            client.kill();
        }
        link.is_useless = useless;
        link.restart.failed(now, link.since.take());
        if useless {
            tracing::info!(target: NETWORK, "no early drop, no kernel engine: {reason}");
        } else {
            tracing::warn!(target: NETWORK, "no early drop until the next attempt: {reason}");
        }
        Report::Absent { reason, no_permission: useless }
    }

    /// Tells the attacher what to drop.
    pub(super) fn set_early_drop(
        &mut self,
        wanted: &Wanted,
        now: Duration,
    ) -> Result<Outcome<'static>, Report> {
        // Never used before, also by earlier supervisors on this host.
        let generation = u64::try_from(clock::monotonic().as_nanos()).unwrap_or(u64::MAX);
        let told = match &self.attacher.client {
            Some(client) => {
                let relays = wanted.values().any(|there| there.relays);
                client.want(generation, wanted, relays && self.kernel_counters().is_none())
            }
            None => Err("there is no attacher".to_owned()),
        };
        match told {
            Ok(()) => Ok(Outcome::EarlyDropSet(wanted.clone(), generation)),
            Err(reason) => Err(self.attacher_lost(reason, false, now)),
        }
    }

    /// Ends the attacher, and with it what it has attached. The keeper must not hold it any more.
    pub(crate) fn dismiss_attacher(&mut self) {
        if let Some(client) = self.attacher.client.take() {
            client.end();
        }
    }
}
