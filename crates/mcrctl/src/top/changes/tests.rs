use serde_json::json;

use super::*;
use crate::top::tests::story::{read, snapshot};

fn texts(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(|change| change.text.as_str()).collect()
}

/// What is told of a change made to the same snapshot.
fn told(change: impl FnOnce(&mut Snapshot)) -> Vec<(String, Tone)> {
    let before = snapshot(30);
    let mut after = before.clone();
    change(&mut after);
    between(&before, &after).into_iter().map(|change| (change.text, change.tone)).collect()
}

#[test]
fn what_stays_is_not_reported() {
    assert_eq!(between(&snapshot(3), &snapshot(9)), Vec::new());
}

#[test]
fn an_event_has_the_name_of_its_rule() {
    let event = |value| of_event(&read(value), Some("video")).map(|change| (change.text, change.tone));
    let id = "00000000000000a1";
    let text = |text: &str, tone| Some((text.to_owned(), tone));
    assert_eq!(
        event(
            json!({ "at_ms": 0, "kind": "rule", "words": "", "state": "pending", "reason": "eth0 is down", "rule": id })
        ),
        text("rule video: pending: eth0 is down", Tone::Warn)
    );
    assert_eq!(
        event(
            json!({ "at_ms": 0, "kind": "output", "words": "", "state": "active", "output": "eth1 239.2.2.2:5001",
                      "rule": id })
        ),
        text("rule video: output eth1 239.2.2.2:5001: active", Tone::Good)
    );
    assert_eq!(
        event(
            json!({ "at_ms": 0, "kind": "flow", "words": "no datagram for 3 s", "state": "stopped", "rule": id })
        ),
        text("rule video: no datagram for 3 s", Tone::Warn)
    );
    assert_eq!(event(json!({ "at_ms": 0, "kind": "alive", "words": "nothing happened" })), None);
    assert_eq!(event(json!({ "at_ms": 0, "kind": "worker", "words": "", "state": "updating" })), None);
    let link =
        read(json!({ "at_ms": 0, "kind": "link", "words": "interface eth0 is gone", "state": "gone" }));
    let gone = of_event(&link, None).unwrap();
    assert_eq!((gone.text.as_str(), gone.tone, gone.rule), ("interface eth0 is gone", Tone::Plain, None));
}

#[test]
fn workers_die_and_drift() {
    let one = |change: fn(&mut WorkerStatus)| {
        let told = told(|after| change(&mut after.workers.workers[0]));
        assert!(told.len() <= 1, "{told:?}");
        told.into_iter().next().map(|(text, _)| text).unwrap_or_default()
    };
    assert_eq!(
        one(|worker| (worker.restarts, worker.stalls, worker.recovery_ms) = (2, 1, Some(9))),
        "worker eth0 core 0: died after it stalled, replaced after 9 ms (restarts: 2)"
    );
    assert_eq!(one(|worker| worker.drifts = 1), "worker eth0 core 0: its table had drifted and was repaired");
    assert_eq!(one(|worker| worker.state = WorkerState::Idle), "", "that is an event");
}

#[test]
fn interfaces_rules_and_notices_change() {
    let addresses = told(|after| after.interfaces.interfaces[0].addresses.clear());
    assert_eq!(addresses, [("interface eth0: addresses none".to_owned(), Tone::Plain)]);
    let mtu = told(|after| after.interfaces.interfaces[0].mtu = 9000);
    assert_eq!(mtu, [("interface eth0: MTU 9000 (was 1500)".to_owned(), Tone::Plain)]);
    let gone = told(|after| drop(after.rules.rules.remove(0)));
    assert_eq!(gone, [("rule video: removed".to_owned(), Tone::Plain)]);
    let mut without = snapshot(30);
    without.rules.rules.remove(0);
    assert_eq!(texts(&between(&without, &snapshot(30))), ["rule video: added"]);
    let mut before = snapshot(30);
    before.status.notices.push("the last load returns in 12 s".to_owned());
    let mut after = snapshot(30);
    assert_eq!(texts(&between(&after, &before)), ["notice: the last load returns in 12 s"]);
    assert_eq!(texts(&between(&before, &after)), ["no longer: the last load returns in 12 s"]);
    after.status.notices.push("the last load returns in 3 s".to_owned());
    assert_eq!(between(&before, &after), Vec::new(), "only the seconds differ");
}

#[test]
fn at_first_only_what_is_wrong_is_reported() {
    let changes = at_first(&snapshot(0));
    assert_eq!(
        texts(&changes),
        [
            "rule feed-a: pending: eth2 does not exist",
            "rule 00000000000000a3: output eth3 [ff15::2:2]:6000: pending: eth3 is down"
        ]
    );
    let status = json!({ "startup_file": "", "confirm_within_s": null, "notices": ["the file is bad"] });
    let noticed = Snapshot { status: read(status), ..Snapshot::default() };
    assert_eq!(texts(&at_first(&noticed)), ["notice: the file is bad"]);
    let mut silent = snapshot(30);
    silent.rules.rules.clear();
    silent.stats.rules[0].silent = true;
    assert_eq!(texts(&at_first(&silent)), ["rule video: silent, nothing arrives"]);
}
