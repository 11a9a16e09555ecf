//! Sends egress sockets and rule sets to workers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mcr_link::message::ToWorker;
use mcr_link::rule_set::{EgressId, RuleSet, RuleSetChange};
use mcr_link::telemetry::rule_set_file;
use mcr_rules::log::WORKERS;
use mcr_sys::channel::MAX_FDS;
use mcr_sys::egress::{EgressOptions, Family, Origin, open_egress};

use super::Executor;
use crate::core::machine::{Machine, Outcome};
use crate::core::plan::{EgressKey, PerDatagram, WorkerId};

impl Executor {
    pub(super) fn send_egress(
        &mut self,
        id: &WorkerId,
        sockets: &[(EgressId, EgressKey)],
        machine: &mut Machine,
        now: Duration,
    ) {
        let mut open: Vec<(EgressId, EgressKey, OwnedFd)> = Vec::with_capacity(sockets.len());
        for (egress, key) in sockets {
            match open_egress(&egress_options(key)) {
                Ok(socket) => open.push((*egress, *key, socket)),
                Err(error) => {
                    let name = machine.network().link_by_index(key.ifindex).map(|link| link.name.clone());
                    let reason =
                        format!("can't send on {}: {error}", name.unwrap_or_else(|| key.ifindex.to_string()));
                    tracing::warn!(target: WORKERS, worker = %id, "{reason}");
                    machine.handle(now, Outcome::EgressFailed(id, *key, reason));
                }
            }
        }
        for batch in open.chunks(MAX_FDS) {
            let message = ToWorker::Egress(batch.iter().map(|(egress, ..)| *egress).collect());
            let fds: Vec<BorrowedFd<'_>> = batch.iter().map(|(.., socket)| socket.as_fd()).collect();
            if !self.tell(id, &message, &fds) {
                return;
            }
            let sent: Vec<(EgressId, EgressKey)> =
                batch.iter().map(|(egress, key, _)| (*egress, *key)).collect();
            machine.handle(now, Outcome::EgressSent(id, &sent));
        }
    }

    pub(super) fn send_rule_set(&mut self, id: &WorkerId, set: &RuleSet, hash: u64, since: Option<&RuleSet>) {
        let generation = set.generation;
        let (encoded, message) = match since {
            Some(since) => {
                let change = RuleSetChange::between(since, set);
                (change.encode(), ToWorker::RuleSetChange { generation, hash })
            }
            None => (set.encode(), ToWorker::RuleSet { generation, hash }),
        };
        let file = encoded
            .map_err(|error| error.to_string())
            .and_then(|bytes| rule_set_file(&bytes).map_err(|error| error.to_string()));
        match file {
            Ok(file) => {
                let (rules, as_change) = (set.rules.len(), since.is_some());
                tracing::debug!(target: WORKERS, worker = %id, generation, rules, as_change, "rule set sent");
                self.tell(id, &message, &[file.as_fd()]);
            }
            // The answer's deadline expires, and the worker is replaced.
            Err(error) => tracing::error!(target: WORKERS, worker = %id, "can't build the rule set: {error}"),
        }
    }
}

fn egress_options(key: &EgressKey) -> EgressOptions {
    EgressOptions {
        ifindex: key.ifindex,
        family: if key.ipv6 { Family::V6 } else { Family::V4 },
        ttl: key.ttl,
        dscp: key.dscp,
        origin: match (key.per_datagram, key.source) {
            (PerDatagram::Nothing, None) => Origin::Interface,
            (PerDatagram::Nothing, Some(source)) => Origin::Address(source),
            (PerDatagram::Address, _) => Origin::AnyAddress,
            (PerDatagram::AddressAndPort, _) => Origin::AnyPort,
        },
        multicast_loop: key.multicast_loop,
        send_buffer_bytes: key.send_buffer_bytes as usize,
        marked: key.marked,
        mark: key.mark,
    }
}
