//! The host, as the doctor sees it.

use std::path::Path;

use mcr_sys::test_env::{with_file, with_own_sysfs, without_capability};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting};
use serde_json::{Value, json};

use super::{OPTMEM_MAX, examine, examine_for, finding, ids, ids_of_host, run, set};
use crate::lacking::{has_sysctl, has_two_cores};
use crate::scenario::{
    input_on, is_in_user_namespace, limits_receive_buffer_to_less_than, output, relay, rule, with,
};

#[test]
fn the_host_is_examined_with_the_rules() {
    let topology = Topology::sender_relay_receiver();
    topology.relay.setup("bridge", |links| links.create_bridge("bridge", false));
    run(&topology.relay, "ip link set bridge type bridge mcast_snooping 1");
    topology.relay.set_up("bridge", true);
    topology.relay.add_address("bridge", "10.7.0.1/24");
    let rules = [
        with(rule(input_on("eth0", "239.1.1.1"), [output("239.2.2.1")]), "name", "one"),
        with(rule(input_on("eth0", "239.1.1.2"), [output("239.2.2.2")]), "name", "two"),
    ];
    let outputs = json!([output("239.2.2.3"), crate::scenario::output_on("bridge", "239.2.2.4")]);
    let mut rules = rules.to_vec();
    rules[1]["outputs"] = outputs;
    let daemon = relay(&topology, IoBackend::Recvmmsg, &rules);
    let (host, _) = examine(&daemon);
    let topics: Vec<&str> =
        host["checks"].as_array().unwrap().iter().map(|check| check["topic"].as_str().unwrap()).collect();
    let expected = [
        "kernel",
        "io_uring",
        "buffers",
        "workers",
        "sandbox",
        "cores",
        "aggregation",
        "rp_filter",
        "capabilities",
        "early_drop",
        "bridges",
    ];
    assert_eq!(topics, expected);
    assert_eq!(ids_of_host(&host), [""; 0], "{host:#}");
    // Chosen by MCRD_IO here; the doctor can't know.
    assert_eq!(finding(&host, "io_uring_unavailable")["severity"], "note", "{host:#}");
    assert_eq!(finding(&host, "snooping_without_querier")["evidence"]["bridge"], "bridge", "{host:#}");
    let text = daemon.ctl(&["doctor", "--listen", "0"]);
    println!("{}", text.stdout);
    assert!(text.stdout.starts_with("host\n  kernel        ok       Linux "), "{}", text.stdout);
}

/// Cores given twice or in vain, and what a daemon without CAP_NET_ADMIN may not do.
#[test]
fn cores_buffers_and_capabilities_that_are_wrong_are_found() {
    const CAP_NET_ADMIN: u8 = 12;
    if !has_two_cores() {
        return;
    }
    let topology = Topology::sender_relay_receiver();
    let line = "ip link add one numrxqueues 1 type veth peer name other numrxqueues 1";
    run(&topology.relay, line);
    topology.relay.set_up("one", true);
    topology.relay.set_up("other", true);
    let config = json!({
        "rules": [
            with(rule(input_on("eth0", "239.1.1.1"), [output("239.2.2.1")]), "name", "first"),
            with(rule(input_on("one", "239.1.1.2"), [output("239.2.2.2")]), "name", "second"),
        ],
        "pinning": {"eth0": [0], "one": [0, 1]},
        "settings": {"receive_buffer_bytes": 1 << 29},
    });
    let daemon = Daemon::start_with(&topology.relay, &config.to_string(), |command| {
        without_capability(command, CAP_NET_ADMIN);
        topology.relay.namespace().apply_to(command).unwrap();
        with_own_sysfs(command);
    });
    daemon.wait_until_active(2);
    let (host, _) = examine(&daemon);
    let shared = &finding(&host, "core_shared")["words"];
    assert!(shared.as_str().unwrap().contains("core 0 is shared by eth0 and one"), "{host:#}");
    assert_eq!(finding(&host, "one_core_gets_all")["evidence"]["workers"], 2, "{host:#}");
    assert!(host.to_string().contains("one: 2 cores, 1 receive queue, RPS off"), "{host:#}");
    if limits_receive_buffer_to_less_than(1 << 29) {
        finding(&host, "buffer_clamped");
    }
    let missing = &finding(&host, "capability_missing")["words"];
    assert!(missing.as_str().unwrap().contains("CAP_NET_ADMIN"), "{host:#}");
    if is_in_user_namespace() {
        println!("skipped: nobody may steer receiving here");
        return;
    }
    // What the hint says helps.
    let mut steer = topology.relay.command("sh");
    steer.args(["-c", "echo 3 > /sys/class/net/one/queues/rx-0/rps_cpus"]);
    with_own_sysfs(&mut steer);
    assert!(steer.status().unwrap().success());
    let (host, _) = examine_for(&daemon, "0");
    assert!(!ids(&host).contains(&"one_core_gets_all") && host.to_string().contains("RPS on"), "{host:#}");
}

#[test]
fn a_kernel_that_is_too_old_is_reported() {
    let topology = Topology::sender_relay_receiver();
    let scratch = tempfile::tempdir().unwrap();
    let release = scratch.path().join("osrelease");
    std::fs::write(&release, "5.15.0-91-generic\n").unwrap();
    let rule = with(rule(input_on("eth0", "239.1.1.1"), [output("239.2.2.1")]), "name", "one");
    let config = json!({"rules": [rule]});
    let daemon = Daemon::start_with(&topology.relay, &config.to_string(), |command| {
        with_file(command, &release, Path::new("/proc/sys/kernel/osrelease")).unwrap();
    });
    daemon.wait_until_active(1);
    let (host, _) = examine_for(&daemon, "0");
    let old = &finding(&host, "kernel_old");
    assert_eq!(old["words"], "Linux 5.15.0-91-generic is older than 6.0", "{host:#}");
    assert_accounting(&daemon.settled_stats());
}

/// The kernel refuses the filter of an observer: its limit for such is 0. What counters tell is told nevertheless.
#[test]
fn arrivals_that_can_not_be_observed_and_rules_that_are_too_many() {
    let topology = Topology::sender_relay_receiver();
    if !has_sysctl(&topology.relay, OPTMEM_MAX) {
        return;
    }
    let rules: Vec<Value> = (0..2001_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            rule(input_on("eth0", format!("239.1.{high}.{low}")), [output("239.2.2.1")])
        })
        .collect();
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    set(&topology.relay, OPTMEM_MAX, "0");
    let report = daemon.ctl_json(&["doctor", "--listen", "0.3"]);
    let (host, rules) = (&report["host"], report["rules"].as_array().unwrap());
    let all = &finding(host, "not_all_examined")["words"];
    assert_eq!((all.as_str(), rules.len()), (Some("the first 2000 of 2001 rules were examined"), 2000));
    let blind = &finding(host, "not_observed")["words"];
    assert!(blind.as_str().unwrap().contains("Cannot allocate memory"), "{host:#}");
    assert_eq!(ids(&rules[0]), ["nothing_arrives"], "{:#}", rules[0]);
    assert_accounting(&daemon.settled_stats());
}
