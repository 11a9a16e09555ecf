//! Why nothing arrives for a rule, and what arrives instead.

use super::*;

#[test]
fn a_group_elsewhere_is_reported_by_the_best_evidence() {
    let [port, vlan, interface] = [
        flow(10, None, 5004, "10.0.0.9"),
        flow(10, Some(7), 5000, "10.0.0.9"),
        flow(12, None, 5000, "10.0.0.9"),
    ];
    assert!(Case::usual().seen([]).only("nothing_arrives").words.contains("no frame for 2.0 s"));
    assert_eq!(Case::usual().seen([interface.clone()]).only("other_interface").evidence["interface"], "eth2");
    assert_eq!(Case::usual().seen([vlan.clone(), interface.clone()]).only("other_vlan").evidence["vlan"], 7);
    Case::usual().seen([port, vlan, interface]).only("other_port");
    Case::usual().seen([flow(10, None, 5000, "10.0.0.9")]).only("not_taken");
    Case::usual().seen([flow(10, None, 5000, "10.0.0.2")]).only("own_source");
    // Another host has an address that this host has on another interface.
    let elsewhere = flow(10, None, 5000, "10.3.0.2");
    Case::usual().seen([elsewhere.clone()]).only("not_taken");
    Case::usual().seen([Flow { mac: [2, 0, 0, 0, 0, 13], ..elsewhere }]).only("own_source");
    let other_host = Flow { kind: FlowKind::OtherHost, ..flow(10, None, 5000, "10.0.0.9") };
    Case::usual().seen([other_host.clone()]).only("other_host");
    let sent = Flow { kind: FlowKind::Sent, ..flow(10, None, 5000, "10.0.0.2") };
    Case::usual().seen([sent.clone()]).only("local_sender");
    Case::usual().seen([Flow { ifindex: 12, ..sent.clone() }]).only("nothing_arrives");
    let mut echoing = rule("eth0", "239.1.1.1", 5000, "eth1");
    echoing.input.options.promiscuous = true;
    Case::of(echoing.clone()).seen([other_host]).only("not_taken");
    let mut back = rule("eth1", "239.9.9.9", 5000, "eth0");
    back.outputs[0].group = address("239.1.1.1");
    let case = Case::of(rule("eth0", "239.1.1.1", 5000, "eth1"));
    let config = config([case.config.rules[0].clone(), back]);
    Case { config, ..case }.seen([sent]).only("nothing_arrives");
    let mut with_sources = rule("eth0", "239.1.1.1", 5000, "eth1");
    with_sources.input.sources = vec![address("10.0.0.7")];
    Case::of(with_sources.clone()).seen([flow(10, None, 5000, "10.0.0.9")]).only("source_excluded");
    // An unadmitted source next to the admitted one is what `sources` is for.
    let both = [flow(10, None, 5000, "10.0.0.9"), flow(10, None, 5000, "10.0.0.7")];
    assert_eq!(Case::of(with_sources).seen(both).relayed(10, 10, &[]).ids(), [""; 0]);
}

#[test]
fn a_querier_that_is_silent_matters_while_nothing_comes() {
    let mut case = Case::usual();
    case.queries.since = Some(NOW - Duration::from_secs(131));
    assert_eq!(case.ids(), ["nothing_arrives", "querier_silent"]);
    let words = case.explain().findings.remove(1).words;
    assert!(words.contains("no IGMP querier was heard on eth0 for 131 s"), "{words}");
    let relaying = case.relayed(10, 10, &[]);
    assert_eq!(relaying.only("querier_silent").severity, Severity::Note);
    // It was heard once.
    let heard = |ago: u64, interval: Option<u64>| {
        let mut case = Case::usual();
        case.queries.since = Some(NOW - Duration::from_secs(500));
        let (at, interval) = (NOW - Duration::from_secs(ago), interval.map(Duration::from_secs));
        let query = HeardQuery { at, from: address("10.0.0.254"), interval };
        case.queries.last.insert((IfIndex::new(10), false), query);
        case
    };
    let words = heard(200, None).explain().findings.remove(1).words;
    assert!(words.contains("for 200 s (the last one came from 10.0.0.254)"), "{words}");
    assert_eq!(heard(12, None).ids(), ["nothing_arrives"]);
    let join = heard(12, None).explain().path.remove(1).words;
    assert!(join.ends_with("the last IGMP query came 12 s ago from 10.0.0.254"), "{join}");
    // The query states its interval.
    for (ago, interval, silent) in [(66, 60, true), (65, 60, false), (250, 255, false)] {
        let ids = heard(ago, Some(interval)).ids();
        assert_eq!(ids.contains(&"querier_silent".to_owned()), silent, "{ago} s of {interval}: {ids:?}");
    }
    let hint = heard(70, Some(60)).explain().findings.remove(1).hint.unwrap();
    assert!(hint.contains("the query interval is 60 s."), "{hint}");
    // The interface was recreated.
    let mut case = Case::usual();
    case.queries.since = Some(NOW - Duration::from_secs(500));
    case.queries.links.insert(IfIndex::new(10), NOW - Duration::from_secs(3));
    assert_eq!(case.ids(), ["nothing_arrives"]);
    // The group arrives, and another fault keeps it from the rule.
    let mut case = Case::usual().seen([flow(10, None, 5004, "10.0.0.9")]);
    case.queries.since = Some(NOW - Duration::from_secs(131));
    assert_eq!(case.ids(), ["other_port", "querier_silent"]);
    assert_eq!(case.explain().findings[1].severity, Severity::Note);
    // It is only on the wire.
    let mut case = Case::usual().relayed(10, 10, &[]);
    let querier = Querier { ifindex: 10, vlan: None, from: address("172.31.0.1") };
    case.observation.as_mut().unwrap().queriers.push(querier);
    assert_eq!(case.only("querier_filtered").severity, Severity::Note);
}

/// One datagram every four seconds is normal, although none arrives within two.
#[test]
fn a_stream_with_pauses_is_not_one_that_ended() {
    let mut case = Case::usual().relayed(10, 10, &[]);
    case.before.rules = case.after.rules.clone();
    let rule = case.key();
    let mut last = |ago_ms: u64| {
        let count = case.after.rules.get_mut(&rule).unwrap();
        count.last = NOW - Duration::from_millis(ago_ms);
        count.first = count.last - Duration::from_secs(9 * 4);
        let finding = case.only("nothing_arrives");
        (finding.severity, finding.words)
    };
    let (severity, words) = last(2_300);
    assert_eq!(severity, Severity::Note, "{words}");
    assert!(words.contains("the last one arrived 2.3 s ago"), "{words}");
    // Longer than the silence timeout of a flow (10 s).
    assert_eq!(last(10_500).0, Severity::Error);
    // A stream of 200 a second that paused, or ended: no error before it is silent.
    let count = case.after.rules.get_mut(&rule).unwrap();
    (count.first, count.last) = (NOW - Duration::from_millis(2_545), NOW - Duration::from_millis(2_500));
    let finding = case.only("nothing_arrives");
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.words.ends_with("the last one arrived 2.5 s ago"), "{}", finding.words);
}

#[test]
fn super_frames_that_the_kernel_discards_are_reported_during_and_after() {
    let lost = |case: &mut Case, before: u64, after: u64| {
        let interface = case.plan.rules[0].installed.clone().unwrap();
        let id = crate::core::plan::WorkerId { interface, core: 0 };
        for (reading, frames) in [(&mut case.before, before), (&mut case.after, after)] {
            let mut worker = WorkerReading::default();
            worker.skips[SkipReason::SuperFrameLost.index()] = frames;
            reading.workers.insert(id.clone(), worker);
        }
    };
    let mut during = Case::usual();
    lost(&mut during, 10, 30);
    let finding = during.only("super_frames_lost");
    assert_eq!((finding.severity, &finding.evidence["frames"]), (Severity::Error, &20.into()), "{finding:?}");
    assert!(finding.words.contains("20 frames") && finding.words.contains("in 2"), "{}", finding.words);
    assert!(finding.hint.unwrap().contains("tx-udp-segmentation off"));
    for (relayed, severity) in [(10, Severity::Note), (0, Severity::Warning)] {
        let mut after = Case::usual();
        if relayed > 0 {
            after = after.relayed(relayed, relayed, &[]);
        }
        lost(&mut after, 30, 30);
        let found = after.explain().findings;
        let finding = found.iter().find(|finding| finding.id == "super_frames_lost").unwrap();
        assert_eq!(finding.severity, severity, "{finding:?}");
        assert!(finding.words.contains("lost so far"), "{}", finding.words);
    }
}

/// A burst is over when the question comes: what was counted is reported.
#[test]
fn skips_of_a_burst_are_reported_after_it() {
    let skipped = |case: &mut Case, reason: SkipReason, ago_ms: u64| {
        let mut skips = RuleSkips::default();
        skips.counts[reason.index()] = 30;
        let at = NOW - Duration::from_millis(ago_ms);
        skips.last = Some(LastSkip { at, reason, source: address("10.9.0.7"), port: Some(5000) });
        let count = RuleCount { skips: Some(Box::new(skips)), ..RuleCount::default() };
        case.before.rules.insert(case.key(), count.clone());
        case.after.rules.insert(case.key(), count);
    };
    for (reason, id, words) in [
        (
            SkipReason::SourceExcluded,
            "source_excluded",
            "from 10.9.0.7 (the last one 2.5 s ago), but the rule",
        ),
        (SkipReason::OwnSource, "own_source", "come from 10.9.0.7 (the last one 2.5 s ago)"),
        (SkipReason::BadChecksum, "bad_checksum", "30 frames for the rule have a wrong checksum"),
        (SkipReason::Fragment, "fragments", "the last arrived 2.5 s ago from 10.9.0.7"),
        (
            SkipReason::FragmentIncomplete,
            "fragments_lost",
            "30 incomplete after a second; the last from 10.9.0.7",
        ),
        (
            SkipReason::FragmentOverlap,
            "fragments_lost",
            "30 datagrams for the rule arrived on eth0 in fragments",
        ),
        (SkipReason::TtlZero, "ttl_zero", "30 frames for the rule have TTL 0"),
        (SkipReason::Truncated, "malformed", "the last arrived 2.5 s ago from 10.9.0.7"),
        (SkipReason::NoRule, "other_port", "on port 5000"),
    ] {
        let mut case = Case::usual();
        skipped(&mut case, reason, 2_500);
        let finding = case.only(id);
        assert_eq!(finding.severity, Severity::Error, "{finding:?}");
        assert!(finding.words.contains(words), "{}", finding.words);
        skipped(&mut case, reason, 61_000);
        case.only("nothing_arrives");
    }
    // Beside a stream that is relayed, faults are a warning, and an excluded source is worth a note.
    // Companions of it on other ports are nothing to report.
    let cases: [(SkipReason, &[Severity]); 3] = [
        (SkipReason::BadChecksum, &[Severity::Warning]),
        (SkipReason::SourceExcluded, &[Severity::Note]),
        (SkipReason::NoRule, &[]),
    ];
    for (reason, severities) in cases {
        let mut case = Case::usual();
        skipped(&mut case, reason, 2_500);
        let skips = case.after.rules[&case.key()].skips.clone();
        let mut case = case.relayed(10, 10, &[]);
        let key = case.key();
        case.after.rules.get_mut(&key).unwrap().skips = skips;
        let found = case.explain().findings;
        assert_eq!(
            found.iter().map(|finding| finding.severity).collect::<Vec<_>>(),
            severities,
            "{found:#?}"
        );
    }
}

#[test]
fn what_could_not_be_looked_at_is_not_said_to_be_absent() {
    let mut case = Case::usual();
    case.observation = None;
    case.host.not_observed = Some("attach filter: Cannot allocate memory".to_owned());
    let finding = case.only("nothing_arrives");
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.words.ends_with("could not be observed: attach filter: Cannot allocate memory"));
    // Together with the worker, absent here, the real cause is reported.
    let explained = explain(&case.facts(), &case.config.rules[0], &case.plan.rules[0]);
    assert_eq!((explained.verdict, explained.findings[0].id.as_str()), (Verdict::Stopped, "worker_down"));
}

/// When nothing arrives for the rule, what does arrive is named, the most similar first.
#[test]
fn what_arrives_instead_is_named() {
    let to =
        |group: &str, port: u16, source: &str| Flow { group: address(group), ..flow(10, None, port, source) };
    let around = |flows: Vec<Flow>| {
        let mut case = Case::usual();
        case.surroundings = Some(Observation { elapsed_ms: 2000, flows, ..Observation::default() });
        case
    };
    let case = around(vec![
        to("239.7.7.7", 5004, "10.9.0.1"),
        to("239.1.1.2", 5000, "10.9.0.1"),
        to("239.200.0.1", 5000, "10.9.0.1"),
        to("224.0.0.251", 5000, "10.9.0.1"),
        Flow { ifindex: 12, ..to("239.1.1.3", 5000, "10.9.0.1") },
        Flow { vlan: Some(7), ..to("239.1.1.3", 5000, "10.9.0.1") },
        to("239.1.1.3", 5000, "10.0.0.2"),
        to("ff15::1", 5000, "fd00::1"),
    ]);
    assert_eq!(case.ids(), ["nothing_arrives", "similar_arrives"]);
    let found = case.explain().findings.remove(1);
    assert_eq!(
        found.words,
        "239.1.1.2:5000 from 10.9.0.1, 5.0/s, 239.200.0.1:5000 from 10.9.0.1, 5.0/s and 239.7.7.7:5004 from 10.9.0.1, 5.0/s arrives on eth0: is that the one?"
    );
    assert_eq!((&found.evidence["group"], &found.evidence["port"]), (&"239.1.1.2".into(), &5000.into()));
    assert_eq!(around(Vec::new()).ids(), ["nothing_arrives"]);
    // What another rule takes is not it.
    let mut case = around(vec![to("239.1.1.2", 5000, "10.9.0.1")]);
    case.config.rules.push(rule("eth0", "239.1.1.2", 5000, "eth1"));
    assert_eq!(case.ids(), ["nothing_arrives"]);
}

/// A query asks every member to report, and own reports are heard if they leave.
#[test]
fn a_report_that_never_left_is_found() {
    let place = (IfIndex::new(10), false);
    let heard = |ago_s: u64| HeardQuery {
        at: NOW - Duration::from_secs(ago_s),
        from: address("10.9.0.1"),
        interval: None,
    };
    let mut case = Case::usual().relayed(10, 10, &[]);
    let second = Some(Duration::from_secs(1));
    case.queries.query(place, heard(30), second);
    assert_eq!(case.ids(), Vec::<String>::new(), "reports can't be heard there");
    case.queries.hear_reports_on([place].into());
    case.queries.query(place, heard(20), None);
    assert_eq!(case.ids(), Vec::<String>::new(), "a query for a group");
    case.queries.query(place, heard(20), second);
    case.queries.query(place, heard(1), second);
    let finding = case.only("report_not_seen");
    assert_eq!((finding.severity, &finding.evidence["seconds"]), (Severity::Warning, &20.into()));
    case.queries.report(place);
    assert_eq!(case.ids(), Vec::<String>::new());
    case.queries.query(place, heard(1), second);
    assert_eq!(case.ids(), Vec::<String>::new(), "there is time left");
    case.queries.query(place, heard(20), second);
    case.queries.report(place);
    case.queries.query(place, heard(20), second);
    case.queries.hear_reports_on(BTreeSet::new());
    assert_eq!(case.ids(), Vec::<String>::new(), "not any more");
}
