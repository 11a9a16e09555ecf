//! Promise: any Varlink client can discover and drive the daemon.

use std::process::{Command, Stdio};

use mcr_testnet::{Daemon, IoBackend, Topology};
use serde_json::Value;

const CONFIG: &str = r#"{
  rules: [
    { name: "there", input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [ { interface: "eth1", group: "239.2.2.2", port: 5001 },
                 { interface: "missing0", group: "239.2.2.3", port: 5001, ttl: "decrement", dscp: "keep" } ] },
  ],
}"#;

/// The `varlink` package of PyPI reads the interface description, finds each reading method's reply to be exactly what
/// the description declares, lists rules, adds one, sees an error and a stream.
#[test]
fn the_python_client_discovers_and_drives_the_daemon() {
    let installed = Command::new("python3").args(["-c", "import varlink"]).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        println!("skipped: python3 varlink not installed");
        return;
    }
    let topology = Topology::sender_relay_receiver();
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, CONFIG);

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/varlink_client.py");
    let output = Command::new("python3").arg(script).arg(daemon.socket()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();

    assert!(seen["description"].as_str().unwrap().contains("method AddRule(rule: Rule)"), "{seen}");
    assert_eq!(seen["before"].as_array().unwrap().len(), 1, "{seen}");
    assert_eq!(seen["after"].as_array().unwrap().len(), 2, "{seen}");
    assert_eq!(seen["rule"]["outputs"][0]["ttl"], "decrement", "{seen}");
    assert_eq!(seen["error"], "io.mcr.Control.RuleNotFound", "{seen}");
    assert_eq!(seen["streamed"], 2, "{seen}");

    let list = daemon.ctl_json(&["list"]);
    let added = list["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == "from-python").unwrap();
    assert_eq!(added["id"], seen["added"]);
    assert_eq!(added["input"]["sources"][0], "10.1.0.1");
}
