//! The loss that each fault caused, and the loss without one.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::{LEGS, SLOT_NS, Traffic};

/// How long before a fault a datagram that it affects may have been sent: it waited in a queue.
const BEFORE: Duration = Duration::from_millis(300);

/// Counters of the relay, over all its workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) drops: u64,
    pub(super) skips: u64,
    pub(super) kernel_drops: u64,
}

impl Counted {
    /// The difference; counters restart at 0 with a new supervisor.
    pub(super) fn since(&self, before: &Self) -> Self {
        let since = |now: u64, before: u64| if now >= before { now - before } else { now };
        Self {
            drops: since(self.drops, before.drops),
            skips: since(self.skips, before.skips),
            kernel_drops: since(self.kernel_drops, before.kernel_drops),
        }
    }
}

/// An injected fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    pub(super) fault: &'static str,
    /// The leg on which it may cause loss; `None` if it must not.
    pub(super) leg: Option<usize>,
    pub(super) begin: Duration,
    pub(super) end: Duration,
    /// From its end until datagrams sent after it arrived on every leg.
    pub(super) recovery: Option<Duration>,
    pub(super) note: String,
    pub(super) failure: Option<String>,
    pub(super) counted: Counted,
}

impl Event {
    /// One line for progress output.
    pub(super) fn line(&self) -> String {
        let leg = self.leg.map(|leg| format!(" on leg {leg}")).unwrap_or_default();
        match (&self.failure, self.recovery) {
            (Some(failure), _) => format!("{}{leg}: FAILED: {failure}", self.fault),
            (None, Some(time)) => format!("{}{leg}: works again after {} ms", self.fault, time.as_millis()),
            (None, None) => format!("{}{leg}", self.fault),
        }
    }

    fn covers(&self, slot_begin: Duration, slot_end: Duration) -> bool {
        slot_end + BEFORE > self.begin && slot_begin < self.end
    }
}

/// Datagrams sent and lost in a set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    slots: u64,
    sent: u64,
    received: u64,
}

impl Part {
    pub(super) fn lost(self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    #[expect(clippy::cast_precision_loss, reason = "displayed seconds")]
    pub(super) fn json(self) -> Value {
        let seconds = self.slots as f64 * SLOT_NS as f64 / 1e9;
        json!({"seconds": seconds, "sent": self.sent, "received": self.received, "lost": self.lost()})
    }
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) events: Vec<Event>,
}

impl Ledger {
    /// Sums the slots of a leg for which `belongs` returns true.
    fn sum(traffic: &Traffic, leg: usize, belongs: impl Fn(Duration, Duration) -> bool) -> Part {
        let mut part = Part::default();
        let width = Duration::from_nanos(SLOT_NS);
        let mut begin = traffic.start;
        for (slot, sent) in traffic.sent[leg].iter().enumerate() {
            if belongs(begin, begin + width) {
                part.slots += 1;
                part.sent += sent;
                part.received += traffic.received[leg].get(slot).copied().unwrap_or_default();
            }
            begin += width;
        }
        part
    }

    fn of_event(event: &Event, traffic: &Traffic, leg: usize) -> Part {
        Self::sum(traffic, leg, |begin, end| event.covers(begin, end))
    }

    /// The slots that no fault covers, over all legs.
    pub(super) fn fault_free(&self, traffic: &Traffic) -> Part {
        let free = |begin, end| !self.events.iter().any(|event| event.covers(begin, end));
        (0..LEGS).map(|leg| Self::sum(traffic, leg, free)).fold(Part::default(), |sum, part| Part {
            slots: sum.slots.max(part.slots),
            sent: sum.sent + part.sent,
            received: sum.received + part.received,
        })
    }

    /// Returns the promises that were not kept.
    pub(super) fn failures(&self, traffic: &Traffic) -> Vec<String> {
        let mut failures = Vec::new();
        let lost = self.fault_free(traffic).lost();
        if lost > 0 {
            failures.push(format!("{lost} datagrams lost without a fault"));
        }
        for (what, count) in [
            ("duplicates", traffic.duplicates),
            ("foreign datagrams received", traffic.foreign),
            (
                "datagrams dropped by the receivers' own queues: the ledger is not sound",
                traffic.receiver_drops,
            ),
        ] {
            if count > 0 {
                failures.push(format!("{count} {what}"));
            }
        }
        for (number, event) in self.events.iter().enumerate() {
            let title = format!("fault {number} ({})", event.fault);
            failures.extend(event.failure.iter().map(|failure| format!("{title}: {failure}")));
            for leg in 0..LEGS {
                let lost = Self::of_event(event, traffic, leg).lost();
                if lost > 0 && event.leg != Some(leg) {
                    failures.push(format!(
                        "{title}: {lost} datagrams lost on leg {leg}, which it does not touch"
                    ));
                }
            }
        }
        failures
    }

    pub(super) fn json(&self, traffic: &Traffic) -> Value {
        let event = |event: &Event| {
            let lost: Vec<u64> = (0..LEGS).map(|leg| Self::of_event(event, traffic, leg).lost()).collect();
            json!({
                "fault": event.fault, "leg": event.leg, "lost": lost.iter().sum::<u64>(), "lost_by_leg": lost,
                "at_s": (event.begin.saturating_sub(traffic.start)).as_secs_f64(),
                "seconds": (event.end - event.begin).as_secs_f64(),
                "recovery_ms": event.recovery.map(|time| time.as_secs_f64() * 1e3),
                "drops": event.counted.drops, "skips": event.counted.skips,
                "kernel_drops": event.counted.kernel_drops, "note": event.note, "failure": event.failure,
            })
        };
        self.events.iter().map(event).collect()
    }
}

/// Renders a report as a table.
#[must_use]
pub fn table(report: &Value) -> String {
    let mut text = format!(
        "{:>8}  {:<26} {:>3} {:>8} {:>8} {:>8} {:>8} {:>9}  NOTE\n",
        "AT s", "FAULT", "LEG", "LOST", "DROPS", "SKIPS", "KERNEL", "RECOVERY"
    );
    let number = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
    for fault in report["faults"].as_array().into_iter().flatten() {
        let recovery =
            fault["recovery_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
        let note = fault["failure"].as_str().or_else(|| fault["note"].as_str()).unwrap_or_default();
        // Writing to a `String` can't fail.
        let _ = writeln!(
            text,
            "{:>8.1}  {:<26} {:>3} {:>8} {:>8} {:>8} {:>8} {:>9}  {note}",
            fault["at_s"].as_f64().unwrap_or_default(),
            fault["fault"].as_str().unwrap_or_default(),
            number(&fault["leg"]),
            number(&fault["lost"]),
            number(&fault["drops"]),
            number(&fault["skips"]),
            number(&fault["kernel_drops"]),
            recovery,
        );
    }
    let (all, free) = (&report["traffic"], &report["fault_free"]);
    let _ = writeln!(
        text,
        "\nall         sent {} received {} lost {} duplicates {} foreign {}",
        all["sent"], all["received"], all["lost"], all["duplicates"], all["foreign"]
    );
    let _ = writeln!(
        text,
        "fault-free  {} s, sent {} received {} lost {}",
        free["seconds"], free["sent"], free["received"], free["lost"]
    );
    for process in report["processes"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "{:<11} processes {}, memory {} KiB, slope {} KiB/min over {} min, descriptors {} to {}",
            process["process"].as_str().unwrap_or_default(),
            process["processes"],
            process["memory_kib"],
            process["slope_kib_per_minute"],
            process["minutes"],
            process["descriptors_first"],
            process["descriptors_last"],
        );
    }
    for failure in report["failures"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "NOT KEPT    {}", failure.as_str().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Ten slots of 100 ms from second 100, ten datagrams each; leg 1 loses one of slot 7.
    fn traffic() -> Traffic {
        let mut received = [vec![10; 10], vec![10; 10]];
        received[1][7] = 9;
        Traffic { start: seconds(100), sent: [vec![10; 10], vec![10; 10]], received, ..Traffic::default() }
    }

    fn event(begin_ms: u64, end_ms: u64, leg: Option<usize>) -> Event {
        let at = |ms| seconds(100) + Duration::from_millis(ms);
        Event { fault: "f", begin: at(begin_ms), end: at(end_ms), leg, ..Event::default() }
    }

    #[test]
    fn a_loss_belongs_to_the_fault_that_covers_it_or_to_none() {
        for (events, free_lost, failures) in [
            (vec![], 1, 1),
            (vec![event(700, 800, Some(1))], 0, 0),
            (vec![event(1_000, 1_100, Some(1))], 0, 0),
            (vec![event(500, 700, Some(1))], 1, 1),
            (vec![event(700, 800, Some(0))], 0, 1),
            (vec![event(700, 800, None)], 0, 1),
        ] {
            let ledger = Ledger { events };
            assert_eq!(ledger.fault_free(&traffic()).lost(), free_lost, "{:?}", ledger.events);
            assert_eq!(ledger.failures(&traffic()).len(), failures, "{:?}", ledger.events);
        }
    }

    #[test]
    fn duplicates_and_unknown_datagrams_are_failures() {
        let clean = Traffic { received: [vec![10; 10], vec![10; 10]], ..traffic() };
        assert!(Ledger::default().failures(&clean).is_empty());
        let broken = Traffic { duplicates: 1, foreign: 2, receiver_drops: 3, ..clean };
        assert_eq!(Ledger::default().failures(&broken).len(), 3);
    }
}
