//! Interfaces are found by the names that people use: altnames count as names, and other spellings get a hint.

use std::time::Duration;

use crate::scenario::{assert_received, input, output, recv, relay, rule, send, stats_without_drops, with};
use mcr_testnet::{Daemon, Host, IoBackend, Topology, binary, wait_for};
use serde_json::Value;

fn ip(host: &Host, arguments: &str) {
    let output = host.output("ip", &arguments.split_whitespace().collect::<Vec<_>>());
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Waits until the rules have these reasons; an active one has none.
fn wait_for_reasons(daemon: &Daemon, expected: &[Option<&str>]) {
    wait_for("the rules' reasons", Duration::from_secs(10), || {
        let list = daemon.ctl_json(&["list"]);
        let rules = list["rules"].as_array().unwrap();
        let reasons: Vec<Option<&str>> = rules.iter().map(|rule| rule["reason"].as_str()).collect();
        if reasons == expected { Ok(()) } else { Err(list.to_string()) }
    });
}

on_both_backends! {
    /// The altnames come after the rule and go again; another rule names the same interface by its name.
    fn an_altname_is_a_name(io) {
        let topology = Topology::sender_relay_receiver();
        let by_altname = rule(
            with(input("239.1.1.1"), "interface", "camera-lan"),
            [with(output("239.2.2.1"), "interface", "studio-lan")],
        );
        let by_name = rule(input("239.1.1.2"), [output("239.2.2.2")]);
        let daemon = relay(&topology, io, &[]);
        let config = daemon.directory().join("named.json5");
        std::fs::write(&config, serde_json::json!({ "rules": [by_altname, by_name] }).to_string()).unwrap();
        let loaded = daemon.ctl(&["load", config.to_str().unwrap()]);
        assert_eq!(loaded.code, 0, "{}", loaded.stderr);
        assert!(loaded.stderr.contains("is pending: interface camera-lan does not exist"), "{}", loaded.stderr);
        wait_for_reasons(&daemon, &[Some("interface camera-lan does not exist"), None]);
        ip(&topology.relay, "link property add dev eth0 altname camera-lan");
        ip(&topology.relay, "link property add dev eth1 altname studio-lan");
        wait_for_reasons(&daemon, &[None, None]);
        assert_eq!(daemon.ctl_json(&["workers"])["workers"].as_array().map(Vec::len), Some(1));

        let receivers = ["239.2.2.1", "239.2.2.2"].map(|group| recv(&topology.receiver, "eth0", group, ""));
        for group in ["239.1.1.1", "239.1.1.2"] {
            let _ = send(&topology.sender, "eth0", group, "--count 300 --rate 3000").finish();
        }
        for receiver in receivers {
            assert_received(&receiver.finish(), 300);
        }
        stats_without_drops(&daemon);

        ip(&topology.relay, "link property del dev eth0 altname camera-lan");
        wait_for_reasons(&daemon, &[Some("interface camera-lan does not exist"), None]);
    }
}

#[test]
fn a_name_that_is_shown_but_is_none_gets_the_one_that_is_meant() {
    let topology = Topology::sender_relay_receiver();
    ip(&topology.relay, "link set dev eth1 alias uplink");
    ip(&topology.relay, "link property add dev eth0 altname enp129s0f0np0-recorders");
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[]);
    let add = |interface: &str, output: &str| {
        daemon.ctl(&[
            "--json",
            "add",
            "--input-interface",
            interface,
            "--input-group",
            "239.1.1.1",
            "--input-port",
            "5000",
            "--outputs",
            output,
        ])
    };
    for (interface, output, expected) in [
        ("eth0:1", "239.2.2.2:5001:eth1", "the interface is \"eth0\""),
        ("eth0", "239.2.2.2:5001:eth1:0", "the interface is \"eth1\""),
        ("enp129s0f0np0-cameras", "239.2.2.2:5001:eth1", "for an altname, write the interface's name"),
        ("enp129s0f0np0-recorders", "239.2.2.2:5001:eth1", "it is an altname of eth0: write \"eth0\""),
        ("eth1", "239.2.2.2:5001:enp129s0f0np0-recorders", "it is an altname of eth0: write \"eth0\""),
    ] {
        let refused = add(interface, output);
        assert!(
            refused.code == 2 && refused.stderr.contains(expected),
            "{interface} {output}: {}",
            refused.stderr
        );
    }
    for (interface, expected) in [
        ("eth0@if5", "interface eth0@if5 does not exist; did you mean eth0?"),
        ("uplink", "interface uplink does not exist; did you mean eth1?"),
        ("eth7@if5", "interface eth7@if5 does not exist"),
    ] {
        let added = add(interface, "239.2.2.2:5001:eth1");
        assert_eq!(added.code, 0, "{}", added.stderr);
        let reply: Value = serde_json::from_str(&added.stdout).unwrap();
        assert_eq!((&reply["state"], &reply["reason"]), (&"pending".into(), &expected.into()), "{reply}");
        assert!(added.stderr.contains(&format!("is pending: {expected}\n")), "{}", added.stderr);
        daemon.ctl_json(&["remove", "--id", reply["id"].as_str().unwrap()]);
    }
}

/// A file with an altname that is too long for a name gets the interface from whoever reads it: mcrctl, the daemon that runs,
/// the daemon that starts.
#[test]
fn a_file_with_a_long_altname_gets_the_name_that_is_meant() {
    let topology = Topology::sender_relay_receiver();
    ip(&topology.relay, "link property add dev eth1 altname enp129s0f1np1-recorders");
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[]);
    let rule = rule(input("239.1.1.1"), [with(output("239.2.2.2"), "interface", "enp129s0f1np1-recorders")]);
    let file = daemon.directory().join("long.json5");
    std::fs::write(&file, serde_json::json!({ "rules": [rule] }).to_string()).unwrap();
    let file = file.to_str().unwrap();
    let expected = "hint: it is an altname of eth1: write \"eth1\"\n";
    for command in ["check", "load", "diff"] {
        let refused = daemon.ctl(&[command, file]);
        assert!(refused.code == 1 && refused.stderr.contains(expected), "{command}: {}", refused.stderr);
    }
    let started = topology.relay.output(binary("mcrd"), &["--check", "--config", file]);
    let stderr = String::from_utf8_lossy(&started.stderr);
    assert!(!started.status.success() && stderr.contains(expected), "{stderr}");
}

/// Two names of one interface are one interface: for the uniqueness of inputs, and for loops.
#[test]
fn an_altname_is_the_same_interface() {
    let topology = Topology::sender_relay_receiver();
    ip(&topology.relay, "link property add dev eth0 altname cam0");
    let daemon = relay(
        &topology,
        IoBackend::Recvmmsg,
        &[rule(with(input("239.1.1.1"), "interface", "cam0"), [output("239.2.2.2")])],
    );
    let add = |group: &str, output: &str| {
        let line =
            format!("add --input-interface eth0 --input-group {group} --input-port 5000 --outputs {output}");
        daemon.ctl(&line.split(' ').collect::<Vec<_>>())
    };
    for (group, output) in [("239.1.1.1", "239.2.2.3:5001:eth1"), ("239.1.1.9", "239.1.1.9:5000:cam0")] {
        let refused = add(group, output);
        assert_eq!(refused.code, 1, "{group} {output}: {}", refused.stderr);
        assert!(refused.stderr.contains("cam0 is eth0"), "{}", refused.stderr);
    }
    assert_eq!(add("239.1.1.2", "239.2.2.3:5001:eth1").code, 0, "another group");
    assert_eq!(daemon.ctl_json(&["list"])["rules"].as_array().map(Vec::len), Some(2));
}

/// A comma is legal in an interface name (`dev_valid_name` of the kernel).
#[test]
fn a_comma_in_a_name_is_escaped() {
    let topology = Topology::sender_relay_receiver();
    ip(&topology.relay, "link property add dev eth1 altname a,b");
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[]);
    let added = daemon.ctl(&[
        "--json",
        "add",
        "--input-interface",
        "eth0",
        "--input-group",
        "239.1.1.1",
        "--input-port",
        "5000",
        "--outputs",
        r"239.2.2.2:5001:a\,b,239.2.2.3:5001:eth9",
    ]);
    let reply: Value = serde_json::from_str(&added.stdout).unwrap_or_else(|_| panic!("{}", added.stderr));
    assert_eq!(
        (&reply["outputs"][0]["interface"], &reply["outputs"][0]["state"]),
        (&"a,b".into(), &"active".into())
    );
    assert!(
        added.stderr.contains("the output 239.2.2.3:5001 on eth9 is pending: interface eth9 does not exist"),
        "{}",
        added.stderr
    );
}
