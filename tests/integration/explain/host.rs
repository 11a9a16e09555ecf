//! The host, as the doctor sees it.

use mcr_testnet::{Daemon, IoBackend, Topology};
use serde_json::json;

use super::{examine, finding, ids};
use crate::scenario::{input_on, output, relay, rule, with};

#[test]
fn the_host_is_examined_with_the_rules() {
    let topology = Topology::sender_relay_receiver();
    topology.relay.setup("bridge", |links| links.create_bridge("bridge", false));
    let snoop =
        topology.relay.output("ip", &["link", "set", "bridge", "type", "bridge", "mcast_snooping", "1"]);
    assert!(snoop.status.success(), "{snoop:?}");
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
        "cores",
        "offload",
        "rp_filter",
        "capabilities",
        "bridges",
    ];
    assert_eq!(topics, expected);
    assert_eq!(ids(&host), [""; 0], "{host:#}");
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
    let topology = Topology::sender_relay_receiver();
    let one_queue = [
        "link",
        "add",
        "one",
        "numrxqueues",
        "1",
        "type",
        "veth",
        "peer",
        "name",
        "other",
        "numrxqueues",
        "1",
    ];
    let made = topology.relay.output("ip", &one_queue);
    assert!(made.status.success(), "{made:?}");
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
        mcr_sys::surroundings::without_capability(command, CAP_NET_ADMIN);
    });
    daemon.wait_until_active(2);
    let (host, _) = examine(&daemon);
    let shared = &finding(&host, "core_shared")["words"];
    assert!(shared.as_str().unwrap().contains("core 0 works for eth0 and one"), "{host:#}");
    // Whether RPS spreads its frames can't be known: /sys is that of the namespace that the test runs in.
    assert!(host.to_string().contains("one: 2 cores, 1 receive queue"), "{host:#}");
    finding(&host, "buffer_clamped");
    let missing = &finding(&host, "capability_missing")["words"];
    assert!(missing.as_str().unwrap().contains("CAP_NET_ADMIN"), "{host:#}");
}
