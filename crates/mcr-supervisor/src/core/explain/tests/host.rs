//! Findings of the host.

use super::*;

#[test]
fn what_the_host_lacks_is_reported() {
    let mut case = Case::usual();
    case.host.kernel = "5.15.0-91-generic".to_owned();
    case.host.missing_capabilities = vec!["CAP_NET_ADMIN", "CAP_SETUID"];
    case.host.is_root = true;
    case.host.rp_filter = BTreeMap::from([("eth0".to_owned(), 1)]);
    case.host.rmem_max = Some(212_992);
    case.host.not_observed = Some("no".to_owned());
    let interface = case.plan.rules[0].installed.clone().unwrap();
    let id = crate::core::plan::WorkerId { interface, core: 0 };
    let reading = WorkerReading { receive_buffer_bytes: 212_992, ..WorkerReading::default() };
    case.after.workers.insert(id, reading);
    let report = explain_host(&case.facts(), &[]);
    let ids: Vec<&str> = report.findings.iter().map(|finding| finding.id.as_str()).collect();
    let expected = [
        "kernel_old",
        "buffer_clamped",
        "rp_filter",
        "capability_missing",
        "capability_missing",
        "no_early_drop",
        "not_observed",
    ];
    assert_eq!(ids, expected);
    assert_eq!(report.findings[1].evidence["frames_held"], 184);
    let state = |topic: &str| report.checks.iter().find(|check| check.topic == topic).unwrap().state;
    assert_eq!(
        (state("kernel"), state("rp_filter"), state("bridges")),
        (StepState::Warning, StepState::Ok, StepState::Ok)
    );
}

/// Another user than root lacks most capabilities by choice: that is said, and a finding only where a rule needs one.
#[test]
fn a_capability_that_no_rule_needs_is_no_finding_without_root() {
    for (group, port, expected) in
        [("239.1.1.1", 514, 0), ("10.9.0.2", 1024, 0), ("10.9.0.2", 514, 1), ("255.255.255.255", 67, 1)]
    {
        let mut case = Case::of(rule("eth0", group, port, "eth1"));
        case.host.missing_capabilities = vec!["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_SETUID"];
        let report = explain_host(&case.facts(), &[]);
        let found = report.findings.iter().filter(|finding| finding.id.as_str() == "capability_missing");
        assert_eq!(found.count(), expected, "{group}:{port}");
        let check = report.checks.iter().find(|check| check.topic == "capabilities").unwrap();
        let words = "without CAP_NET_ADMIN, CAP_NET_BIND_SERVICE and CAP_SETUID: mcrd does not run as root";
        assert_eq!(check.words, words);
    }
}
