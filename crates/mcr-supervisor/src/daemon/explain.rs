//! `Explain`: reads the counters, has an observer watch the traffic, reads them again, and lets the core explain. The
//! loop is not blocked meanwhile.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mcr_control::explanation::{ExplainReply, Finding, FindingId};
use mcr_control::failure::{Failure, FailureKind};
use mcr_control::method::parameter::RuleFilter;
use mcr_control::method::{Explain, Handle};
use mcr_link::message::LinkLayer;
use mcr_link::observation::Observation;
use mcr_rules::Rule;
use mcr_rules::destination::BROADCAST;
use mcr_rules::log::NETWORK;
use mcr_sys::clock;
use mcr_sys::link::IfIndex;
use mcr_sys::membership::{Membership, MembershipPool};
use mcr_sys::network::{Link, LinkKind, NetworkEvent};
use mcr_sys::querier_listener::{Query, QueryListener, report_group};
use mcr_wire::membership::{Message, parse_membership, parse_mld};
use tokio::sync::mpsc;

use super::Daemon;
use crate::async_fd::watched;
use crate::config_change::not_found;
use crate::core::explain::{
    Facts, HeardQuery, HostFacts, Queries, Reading, WorkerReading, explain, explain_host,
};
use crate::core::network::NetworkState;
use crate::core::plan::{Plan, WorkerId};
use crate::core::status;
use crate::request::Call;
use crate::{host_facts, observer};

/// Default observation time.
const DEFAULT_LISTEN: Duration = Duration::from_secs(2);
/// Number of concurrent observers; each costs a process and CPU time.
const MAX_OBSERVERS: usize = 4;
/// Maximum number of rules per explanation.
const MAX_EXAMINED: usize = 2_000;
/// Number of interfaces on which an observer receives all multicast.
const MAX_OPENED_INTERFACES: usize = 64;
/// Number of interfaces whose last query is stored.
const MAX_QUERIERS: usize = 4_096;

pub(super) struct PendingExplanations {
    waiting: usize,
    done: mpsc::Sender<Observed>,
    queries: Arc<Mutex<Queries>>,
    /// Memberships of the groups that reports are sent to, so that this host's are heard.
    report_groups: MembershipPool,
}

/// A pending explanation after its observation.
pub(super) struct Observed {
    rule: RuleFilter,
    before: Reading,
    observation: Option<Observation>,
    surroundings: Option<Observation>,
    host: HostFacts,
    call: Call<Explain>,
}

impl PendingExplanations {
    /// A link appeared, regained its carrier or was removed: earlier queries may be from another network.
    pub(super) fn note(&self, event: &NetworkEvent, network: &NetworkState) {
        match event {
            NetworkEvent::LinkChanged(link) => {
                let same = |was: &Link| was.carrier && was.carrier_ups == link.carrier_ups;
                if link.carrier && !network.link_by_index(link.ifindex).is_some_and(same) {
                    lock(&self.queries).links.insert(link.ifindex, clock::monotonic());
                }
            }
            NetworkEvent::LinkRemoved(ifindex) => {
                let mut queries = lock(&self.queries);
                queries.links.remove(ifindex);
                queries.last.retain(|(link, _), _| link != ifindex);
                queries.unanswered.retain(|(link, _), _| link != ifindex);
            }
            _ => {}
        }
    }

    /// Begins to listen for queries. Call it within the runtime.
    pub(super) fn open() -> (Self, mpsc::Receiver<Observed>) {
        let (done, observed) = mpsc::channel(MAX_OBSERVERS);
        let queries = Arc::new(Mutex::new(Queries::default()));
        for ipv6 in [false, true] {
            match QueryListener::open(ipv6) {
                Ok(listener) => {
                    lock(&queries).since.get_or_insert_with(clock::monotonic);
                    tokio::spawn(hear_queries(listener, Arc::clone(&queries)));
                }
                // A host without IPv6 has no MLD.
                Err(error) => tracing::debug!(target: NETWORK, %error, ipv6, "can't receive queries"),
            }
        }
        (Self { waiting: 0, done, queries, report_groups: MembershipPool::new() }, observed)
    }

    /// Hears this host's reports on the interfaces where rules have groups, and on no others.
    pub(super) fn hear_reports(&mut self, plan: &Plan) {
        let ethernet = plan.interfaces.iter().filter(|(_, planned)| planned.link == LinkLayer::Ethernet);
        let places = ethernet.flat_map(|(id, planned)| {
            let groups = move || planned.relays.iter().map(|relay| relay.group).filter(IpAddr::is_multicast);
            let families =
                [false, true].into_iter().filter(move |ipv6| groups().any(|group| group.is_ipv6() == *ipv6));
            families.map(move |ipv6| (id.ifindex, ipv6))
        });
        let wanted: BTreeSet<Membership> = places
            .map(|(ifindex, ipv6)| Membership { ifindex, group: report_group(ipv6), source: None })
            .collect();
        let pool = &mut self.report_groups;
        let gone: Vec<Membership> = pool.joined().filter(|one| !wanted.contains(*one)).copied().collect();
        let new: Vec<Membership> =
            wanted.into_iter().filter(|one| !pool.joined().any(|other| other == one)).collect();
        if gone.is_empty() && new.is_empty() {
            return;
        }
        for membership in gone {
            // The interface may be gone.
            let _ = pool.leave(&membership);
        }
        for membership in new {
            // Tried again when the next second is sampled; without it, reports are not looked for.
            if let Err(error) = pool.join(membership) {
                tracing::debug!(target: NETWORK, %error, ifindex = %membership.ifindex, "can't hear reports");
            }
        }
        let heard = pool.joined().map(|one| (one.ifindex, one.group.is_ipv6())).collect();
        lock(&self.queries).hear_reports_on(heard);
    }
}

fn lock(queries: &Mutex<Queries>) -> std::sync::MutexGuard<'_, Queries> {
    queries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records a query, or a report of this host.
fn record(heard: &Query, queries: &mut Queries) {
    // A raw IPv6 socket delivers no IP header (RFC 3542, section 3).
    let message = if heard.from.is_ipv6() {
        parse_mld(heard.packet())
    } else {
        parse_membership(heard.packet()).map(|membership| membership.message)
    };
    let place = (heard.ifindex, heard.from.is_ipv6());
    match message {
        Some(Message::Report(_)) => queries.report(place),
        Some(Message::Query { interval, max_response, general })
            if queries.last.len() < MAX_QUERIERS || queries.last.contains_key(&place) =>
        {
            let (at, from) = (clock::monotonic(), heard.from);
            // Not every member answers a query for a group.
            queries.query(place, HeardQuery { at, from, interval }, general.then_some(max_response));
        }
        _ => {}
    }
}

async fn hear_queries(listener: QueryListener, queries: Arc<Mutex<Queries>>) {
    let listener = match watched(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(target: NETWORK, %error, "can't receive queries");
            return;
        }
    };
    while let Ok(mut ready) = listener.readable().await {
        loop {
            match listener.get_ref().0.receive() {
                Ok(Some(heard)) => record(&heard, &mut lock(&queries)),
                Ok(None) => break,
                // A pending error such as ENETDOWN is reported once.
                Err(error) => {
                    tracing::debug!(target: NETWORK, %error, "receiving queries");
                    break;
                }
            }
        }
        ready.clear_ready();
    }
}

#[expect(clippy::disallowed_methods, reason = "a dedicated thread that waits")]
fn pause_until(end: Duration) {
    std::thread::sleep(end.saturating_sub(clock::monotonic()));
}

/// The interfaces on which a program of this host may be the sender that a rule does not take.
fn local_senders(network: &NetworkState, meant: &[&Rule]) -> Vec<IfIndex> {
    let inputs = meant.iter().filter(|rule| !rule.input.options.local);
    let inputs = inputs.flat_map(|rule| rule.inputs());
    let links = inputs.filter_map(|input| network.link(input.interface.as_str()));
    let senders: BTreeSet<IfIndex> =
        links.filter(|link| link.kind != LinkKind::Loopback).map(|link| link.ifindex).collect();
    senders.into_iter().collect()
}

/// Where a sender that means one of these rules may send by mistake: the addresses of their interfaces.
fn other_destinations(network: &NetworkState, meant: &[&Rule]) -> Vec<IpAddr> {
    let of_rules = meant.iter().flat_map(|rule| rule.inputs());
    let links = of_rules.filter_map(|input| network.link(input.interface.as_str()));
    let inputs: BTreeSet<IfIndex> = links.map(|link| link.ifindex).collect();
    let addresses = inputs.into_iter().flat_map(|ifindex| network.destinations_of(ifindex));
    std::iter::once(BROADCAST).chain(addresses).collect()
}

/// The groups of these rules, and the broadcast addresses of their interfaces.
fn groups_of(network: &NetworkState, meant: &[&Rule]) -> Vec<IpAddr> {
    let inputs = || meant.iter().flat_map(|rule| rule.inputs());
    let broadcasts = inputs().filter(|input| input.group == BROADCAST);
    let broadcasts = broadcasts.filter_map(|input| network.link(input.interface.as_str()));
    let broadcasts = broadcasts.flat_map(|link| network.broadcast_addresses(link.ifindex));
    let groups: BTreeSet<IpAddr> = inputs().map(|input| input.group).chain(broadcasts).collect();
    groups.into_iter().collect()
}

impl Handle<Explain> for Daemon {
    fn handle(&mut self, Explain { rule, listen_ms }: Explain, call: Call<Explain>) {
        let listen = listen_ms.map_or(DEFAULT_LISTEN, |ms| Duration::from_millis(ms.get()));
        self.begin_explanation(rule, listen, call);
    }
}

impl Daemon {
    /// Begins an observation; [`Self::finish_explanation`] does the rest.
    fn begin_explanation(&mut self, rule: RuleFilter, listen: Duration, call: Call<Explain>) {
        let meant: Vec<&Rule> = self.machine.config().rules.iter().filter(|one| rule.selects(one)).collect();
        if let (Some(selector), true) = (&rule.0, meant.is_empty()) {
            call.answer(Err(not_found(selector)));
            return;
        }
        if self.explanations.waiting >= MAX_OBSERVERS {
            let failure = Failure::new(FailureKind::Unavailable, "too many explanations are under way");
            call.answer(Err(failure.with_hint("try again in some seconds")));
            return;
        }
        let network = self.machine.network();
        let groups = groups_of(network, &meant);
        let addresses = other_destinations(network, &meant);
        let named: Vec<(IfIndex, String)> = self
            .machine
            .network()
            .links()
            .filter(|link| link.kind != LinkKind::Loopback && link.up)
            .map(|link| (link.ifindex, link.name.clone()))
            .take(MAX_OPENED_INTERFACES)
            .collect();
        let hosts: BTreeSet<(IfIndex, IpAddr)> = meant
            .iter()
            .flat_map(|rule| &rule.outputs)
            .filter(|output| !output.group.is_multicast() && output.group != BROADCAST)
            .filter_map(|output| Some((network.link(output.interface.as_str())?.ifindex, output.group)))
            .take(MAX_EXAMINED)
            .collect();
        // Of a rule that takes them, they are in its counters.
        let senders = local_senders(network, &meant);
        let before = if listen.is_zero() { Reading::default() } else { self.reading() };
        let done = self.explanations.done.clone();
        let sandbox = self.machine.config().settings.sandbox;
        let look = move || {
            let begin = clock::monotonic();
            let interfaces: Vec<IfIndex> = named.iter().map(|(ifindex, _)| *ifindex).collect();
            let looks = !listen.is_zero() && !groups.is_empty();
            let (looked, surroundings) = std::thread::scope(|scope| {
                // Beside the other one, which must not lose the rules' groups among all others.
                let around = looks
                    .then(|| scope.spawn(|| observer::observe_surroundings(&addresses, listen, sandbox)));
                let looked = looks
                    .then(|| observer::observe(&groups, &interfaces, &senders, listen, sandbox))
                    .transpose();
                // A thread that only waits for a process can't panic.
                (looked, around.and_then(|around| around.join().ok()?.ok()))
            });
            if looked.is_err() {
                // The counters are still compared over that time.
                pause_until(begin + listen);
            }
            let mut host = host_facts::gather(&named, &hosts);
            let observation = looked.unwrap_or_else(|error| {
                tracing::warn!(target: NETWORK, %error, "the wire could not be observed");
                host.not_observed = Some(error);
                None
            });
            // No receiver when the daemon ends.
            let _ = done.blocking_send(Observed { rule, before, observation, surroundings, host, call });
        };
        // Not a blocking thread of the runtime: its shutdown would wait for it. A dropped call answers with an error.
        match std::thread::Builder::new().name("explain".to_owned()).spawn(look) {
            Ok(_) => self.explanations.waiting += 1,
            Err(error) => tracing::warn!(target: NETWORK, %error, "no thread for an explanation"),
        }
    }

    /// Explains and answers. Returns whether there may be actions to execute.
    pub(super) fn finish_explanation(&mut self, observed: Observed) -> bool {
        self.explanations.waiting = self.explanations.waiting.saturating_sub(1);
        let Observed { rule: filter, before, observation, surroundings, host, call } = observed;
        let after = self.reading();
        let queries = lock(&self.explanations.queries).clone();
        let (machine, executor) = (&self.machine, &self.executor);
        let facts = Facts {
            config: machine.config(),
            plan: machine.plan(),
            actual: machine.actual(),
            network: machine.network(),
            aggregation: machine.aggregation(),
            before: &before,
            after: &after,
            observation: observation.as_ref(),
            surroundings: surroundings.as_ref(),
            queries: &queries,
            host: &host,
        };
        let all = machine.config().rules.iter().zip(&machine.plan().rules);
        let meant = all.filter(|(rule, _)| filter.selects(rule)).take(MAX_EXAMINED);
        let rules: Vec<_> = meant.map(|(rule, planned)| explain(&facts, rule, planned)).collect();
        let result = match &filter.0 {
            // It was removed meanwhile.
            Some(selector) if rules.is_empty() => Err(not_found(selector)),
            _ => {
                let listened_ms = observation.as_ref().map_or(0, |seen| seen.elapsed_ms);
                let host = filter.0.is_none().then(|| {
                    let capture =
                        |id: &WorkerId| executor.slot(id).map(|slot| slot.facts.clone()).unwrap_or_default();
                    let workers = status::workers(machine.actual(), clock::monotonic(), capture);
                    let mut report = explain_host(&facts, &workers);
                    let rules = machine.config().rules.len();
                    if rules > MAX_EXAMINED {
                        let words = format!("the first {MAX_EXAMINED} of {rules} rules were examined");
                        report.findings.push(
                            Finding::new(FindingId::NotAllExamined, words)
                                .hint("`mcrctl explain RULE` for one of the others"),
                        );
                    }
                    report
                });
                Ok(ExplainReply { listened_ms, rules, host })
            }
        };
        call.answer(result);
        false
    }

    fn reading(&mut self) -> Reading {
        self.executor.collect_kernel_drops();
        let workers = self.executor.slots().map(|(id, slot)| {
            let totals = slot.reader.worker().totals;
            let reading = WorkerReading {
                received: totals.received,
                skips: totals.skips,
                kernel_drops: slot.kernel_drops,
                receive_buffer_bytes: slot.facts.receive_buffer_bytes,
            };
            (id.clone(), reading)
        });
        Reading {
            at: clock::monotonic(),
            workers: workers.collect(),
            rules: crate::statistics::counts(&self.machine, &self.executor),
        }
    }
}
