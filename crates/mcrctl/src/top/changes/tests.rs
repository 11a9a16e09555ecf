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
fn nothing_is_told_of_what_stays() {
    assert_eq!(between(&snapshot(3), &snapshot(9)), Vec::new());
}

#[test]
fn an_interface_that_comes_explains_the_rule() {
    let changes = between(&snapshot(19), &snapshot(20));
    assert_eq!(texts(&changes), ["interface eth2: up", "rule feed-a: active"]);
    assert_eq!(changes[1].rule.map(|rule| rule.to_string()).as_deref(), Some("00000000000000a2"));
    let back = between(&snapshot(20), &snapshot(19));
    assert_eq!(texts(&back), ["interface eth2: missing", "rule feed-a: pending: eth2 does not exist"]);
    assert!(back.iter().all(|change| change.tone != Tone::Good));
}

#[test]
fn workers_die_drift_and_change_their_state() {
    let one = |change: fn(&mut WorkerStatus)| {
        let told = told(|after| change(&mut after.workers.workers[0]));
        assert!(told.len() <= 1, "{told:?}");
        told.into_iter().next().map(|(text, _)| text).unwrap_or_default()
    };
    assert_eq!(
        one(|worker| (worker.restarts, worker.stalls, worker.recovery_ms) = (2, 1, Some(9))),
        "worker eth0 core 0: died after it stalled, back after 9 ms (2 so far)"
    );
    assert_eq!(one(|worker| worker.drifts = 1), "worker eth0 core 0: its table had drifted and was repaired");
    assert_eq!(one(|worker| worker.state = WorkerState::Updating), "", "that is every change of the rules");
    assert_eq!(one(|worker| worker.state = WorkerState::Idle), "worker eth0 core 0: idle");
    assert_eq!(one(|worker| worker.pid = 9), "worker eth0 core 0: running, process 9");
    let gone = told(|after| drop(after.workers.workers.remove(0)));
    assert_eq!(gone, [("worker eth0 core 0: ended".to_owned(), Tone::Plain)]);
}

#[test]
fn interfaces_groups_and_notices_change() {
    let link = told(|after| after.interfaces.interfaces[0].carrier = false);
    assert_eq!(link, [("interface eth0: no carrier".to_owned(), Tone::Bad)]);
    let addresses = told(|after| after.interfaces.interfaces[0].addresses.clear());
    assert_eq!(addresses, [("interface eth0: addresses none".to_owned(), Tone::Plain)]);
    let mtu = told(|after| after.interfaces.interfaces[0].mtu = 9000);
    assert_eq!(mtu, [("interface eth0: MTU 9000 (was 1500)".to_owned(), Tone::Plain)]);
    let left = told(|after| after.memberships.memberships[0].joined = false);
    assert_eq!(left, [("group 239.1.1.1 on eth0: not joined".to_owned(), Tone::Warn)]);
    let mut before = snapshot(30);
    before.status.notices.push("the last load returns in 12 s".to_owned());
    let mut after = snapshot(30);
    assert_eq!(texts(&between(&after, &before)), ["notice: the last load returns in 12 s"]);
    assert_eq!(texts(&between(&before, &after)), ["no longer: the last load returns in 12 s"]);
    after.status.notices.push("the last load returns in 3 s".to_owned());
    assert_eq!(between(&before, &after), Vec::new(), "only the seconds differ");
}

#[test]
fn rules_come_and_go_and_an_output_says_what_its_rule_does_not() {
    let gone = told(|after| drop(after.rules.rules.remove(0)));
    assert_eq!(gone, [("rule video: removed".to_owned(), Tone::Plain)]);
    let before = snapshot(30);
    let mut without = before.clone();
    without.rules.rules.remove(0);
    assert_eq!(texts(&between(&without, &before)), ["rule video: added, active"]);
    let output = told(|after| {
        let output = &mut after.rules.rules[0].outputs[0];
        (output.state, output.reason) = (RuleState::Pending, Some("eth1 is down".to_owned()));
    });
    let text = "rule video: output eth1 239.2.2.2:5001: pending: eth1 is down";
    assert_eq!(output, [(text.to_owned(), Tone::Warn)]);
    let both = told(|after| {
        let rule = &mut after.rules.rules[0];
        (rule.state, rule.reason) = (RuleState::Pending, Some("eth1 is down".to_owned()));
        (rule.outputs[0].state, rule.outputs[0].reason) = (rule.state, rule.reason.clone());
    });
    assert_eq!(both, [("rule video: pending: eth1 is down".to_owned(), Tone::Warn)]);
}

#[test]
fn at_first_only_what_is_wrong_is_told() {
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
}
