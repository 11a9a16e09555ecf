//! Distributes events to subscribed clients. Without any, nothing is compared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mcr_control::event::Event;
use mcr_link::telemetry::flows::FlowSnapshot;
use mcr_rules::log::NETWORK;
use mcr_sys::clock;
use tokio::sync::broadcast;

use crate::core::events::{Watch, of_notice};
use crate::core::flows::Flows;
use crate::core::machine::Machine;
use crate::core::notices::Notice;
use crate::core::rates::Rates;
use crate::core::senders::FlowId;

/// Events queued for a slow client; beyond that the oldest are dropped, and the client gets their number.
const MAX_WAITING_EVENTS: usize = 1024;

/// Adds the present time to an event.
pub(crate) fn now(event: Event) -> Event {
    Event { at_ms: u64::try_from(clock::since_epoch().as_millis()).unwrap_or_default(), ..event }
}

/// See the module documentation.
pub(crate) struct EventBus {
    sender: broadcast::Sender<Arc<Event>>,
    watch: Option<Watch>,
    flows: Flows,
}

impl EventBus {
    /// Without subscribers.
    pub(crate) fn new(flows: Flows) -> Self {
        let (sender, _) = broadcast::channel(MAX_WAITING_EVENTS);
        Self { sender, watch: None, flows }
    }

    /// Subscribes to events from now on.
    pub(crate) fn subscribe(&mut self, machine: &Machine) -> broadcast::Receiver<Arc<Event>> {
        if self.sender.receiver_count() == 0 {
            self.watch = None;
        }
        self.watch.get_or_insert_with(|| Watch::new(machine));
        self.sender.subscribe()
    }

    /// Sends the changes since the last call. Call it when the loop is idle.
    pub(crate) fn tell(&mut self, machine: &Machine, notices: &[Notice]) {
        if self.sender.receiver_count() == 0 {
            self.watch = None;
            return;
        }
        // The cause of a waiting rule precedes it.
        let changes = self.watch.as_mut().map(|watch| watch.changes(machine)).unwrap_or_default();
        self.send(changes.into_iter().chain(notices.iter().map(of_notice)));
    }

    /// The state of the rules' datagrams and their sources.
    pub(crate) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Sends events for rules whose datagrams started or stopped.
    pub(crate) fn tell_flows(
        &mut self,
        machine: &Machine,
        now: Duration,
        rates: &Rates,
        flows: &BTreeMap<FlowId, FlowSnapshot>,
    ) {
        let events = self.flows.sample(now, machine, rates, flows);
        events.iter().for_each(log_flow);
        if self.sender.receiver_count() > 0 {
            self.send(events);
        }
    }

    fn send(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            // The last client may have disconnected meanwhile.
            let _ = self.sender.send(Arc::new(now(event)));
        }
    }
}

fn log_flow(event: &Event) {
    let rule = event.rule.map(tracing::field::display);
    if event.state.as_deref() == Some("started") {
        tracing::info!(target: NETWORK, rule, "{}", event.words);
    } else {
        tracing::warn!(target: NETWORK, rule, "{}", event.words);
    }
}
