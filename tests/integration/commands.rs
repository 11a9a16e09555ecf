//! Promise: every command of `mcrctl` does what it says, for people and as JSON.

use std::fs;
use std::time::Duration;

use mcr_testnet::{CtlOutput, Daemon, IoBackend, Topology, wait_until};
use serde_json::Value;

const CONFIG: &str = r#"// what this relay is for
{
  rules: [
    { name: "first", input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [ { interface: "eth1", group: "239.2.2.2", port: 5001 } ] },
  ],
}
"#;

fn running() -> (Topology, Daemon) {
    let topology = Topology::sender_relay_receiver();
    let daemon = Daemon::start(&topology.relay, IoBackend::Recvmmsg, CONFIG);
    daemon.wait_until_active(1);
    (topology, daemon)
}

/// That an object has these fields, whatever others it has.
#[track_caller]
fn assert_fields(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "{field:?} is not in {value}");
    }
}

#[track_caller]
fn done(output: &CtlOutput) -> &str {
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    &output.stdout
}

const ADD: &[&str] = &[
    "add",
    "--input-interface",
    "eth0",
    "--input-group",
    "ff15::1",
    "--input-port",
    "6000",
    "--source",
    "fd01::1",
    "--name",
    "second",
    "--outputs",
    "[ff15::2]:6001:eth1/ttl=8/dscp=34,10.2.0.2:6002:eth1/ttl=decrement/dscp=keep",
    "--outputs",
    "239.2.2.3:6003:nowhere0",
];

#[test]
fn rules_come_are_listed_and_go() {
    let (_topology, daemon) = running();
    let added = daemon.ctl_json(ADD);
    let id = added["id"].as_str().unwrap();
    assert_eq!(id.len(), 16, "{added}");
    assert_eq!(
        (&added["state"], &added["outputs"][2]["state"]),
        (&"active".into(), &"pending".into()),
        "{added}"
    );

    let list = daemon.ctl_json(&["list"]);
    let rules = list["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 2, "{list}");
    for rule in rules {
        assert_fields(rule, &["id", "name", "state", "reason", "input", "outputs"]);
        assert_fields(&rule["input"], &["interface", "group", "port", "sources"]);
        for output in rule["outputs"].as_array().unwrap() {
            assert_fields(output, &["interface", "group", "port", "ttl", "state", "reason"]);
        }
    }
    let second = rules.iter().find(|rule| rule["id"] == id).unwrap();
    assert_eq!(second["input"]["sources"], serde_json::json!(["fd01::1"]), "{second}");
    let ttls: Vec<&Value> =
        second["outputs"].as_array().unwrap().iter().map(|output| &output["ttl"]).collect();
    assert_eq!(ttls, [&Value::from(8), &Value::from("decrement"), &Value::from(16)], "{second}");
    assert_eq!(second["outputs"][2]["state"], "pending", "{second}");
    assert!(second["outputs"][2]["reason"].is_string(), "{second}");

    let table = daemon.ctl(&["list"]);
    let table = done(&table);
    assert!(table.contains(id) && table.contains("eth1 [ff15::2]:6001"), "{table}");

    let again = daemon.ctl(ADD);
    assert_eq!(again.code, 1, "{}", again.stderr);
    assert!(again.stderr.starts_with("error: "), "{}", again.stderr);

    assert_eq!(daemon.ctl_json(&["remove", "--id", id])["id"], id);
    assert_eq!(daemon.ctl(&["remove", "--name", "first"]).code, 0);
    assert_eq!(daemon.ctl_json(&["list"])["rules"], serde_json::json!([]));
    let missing = daemon.ctl(&["remove", "--id", id]);
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("hint: "), "{}", missing.stderr);
}

#[test]
fn what_show_writes_load_takes() {
    let (_topology, daemon) = running();
    assert_eq!(daemon.ctl(ADD).code, 0);
    let file = daemon.directory().join("shown.json5");
    let path = file.to_str().unwrap();
    for arguments in [["show"].as_slice(), &["--json", "show"]] {
        fs::write(&file, done(&daemon.ctl(arguments))).unwrap();
        assert_eq!(done(&daemon.ctl(&["diff", path])), "no difference\n");
        let loaded = daemon.ctl_json(&["load", "--replace", path]);
        assert_eq!(loaded["applied"], true, "{loaded}");
        assert_eq!(loaded["diff"]["changed"], serde_json::json!([]), "{loaded}");
    }
}

#[test]
fn load_merges_replaces_or_only_tells() {
    let (_topology, daemon) = running();
    let file = daemon.directory().join("other.json5");
    let path = file.to_str().unwrap();
    fs::write(
        &file,
        r#"{ rules: [ { name: "other", input: { interface: "eth0", group: "239.1.1.9", port: 5000 },
             outputs: [ { interface: "eth1", group: "239.2.2.9", port: 5001 } ] } ] }"#,
    )
    .unwrap();
    let names = || {
        let list = daemon.ctl_json(&["list"]);
        let mut names: Vec<String> = list["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };

    let diff = daemon.ctl_json(&["diff", path]);
    assert_fields(&diff, &["added", "removed", "changed", "settings_changed", "pinning_changed"]);
    assert_eq!(diff["added"][0]["name"], "other", "{diff}");
    assert_eq!(diff["removed"][0]["name"], "first", "{diff}");
    let told = daemon.ctl(&["diff", path]);
    assert!(done(&told).lines().any(|line| line.starts_with("+ ")), "{}", told.stdout);

    let dry = daemon.ctl_json(&["load", "--dry-run", path]);
    assert_eq!((&dry["applied"], &dry["diff"]["removed"]), (&Value::from(false), &serde_json::json!([])));
    assert_eq!(names(), ["first"]);
    assert_eq!(daemon.ctl_json(&["load", path])["applied"], true);
    assert_eq!(names(), ["first", "other"]);
    let replaced = daemon.ctl_json(&["load", "--replace", path]);
    assert_eq!(replaced["diff"]["removed"][0]["name"], "first", "{replaced}");
    assert_eq!(names(), ["other"]);
    // Without a file: against the startup file.
    let diff = daemon.ctl_json(&["diff"]);
    assert_eq!(diff["added"][0]["name"], "first", "{diff}");
}

const WRONG: &str = r#"{
  rules: [
    { input: { interface: "eth0", group: "239.1.1.1", port: 70000 },
      outputs: [ { interface: "eth1", group: "239.2.2.2", port: 5001, ttl: 0 } ] },
  ],
  typo: 1,
}"#;

#[test]
fn config_errors_have_file_line_column_and_path_all_at_once() {
    let (_topology, daemon) = running();
    let file = daemon.directory().join("wrong.json5");
    let path = file.to_str().unwrap();
    fs::write(&file, WRONG).unwrap();
    for command in [["check", path].as_slice(), &["load", path], &["diff", path]] {
        let output = daemon.ctl(command);
        assert_eq!(output.code, 1, "{command:?}");
        for start in ["3:61: rules[0].input.port: ", "4:76: rules[0].outputs[0].ttl: ", "6:3: typo: "] {
            let start = format!("{path}:{start}");
            assert!(
                output.stderr.lines().any(|line| line.starts_with(&start)),
                "{start:?}: {}",
                output.stderr
            );
        }
    }
    let output = daemon.ctl(&["--json", "check", path]);
    assert_eq!(output.code, 1);
    let checked: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(checked["errors"].as_array().unwrap().len(), 3, "{checked}");
    assert_fields(&checked["errors"][0], &["file", "line", "column", "path", "message", "hint"]);

    // The running config is as it was, and checking needs no daemon.
    assert_eq!(daemon.ctl_json(&["list"])["rules"].as_array().unwrap().len(), 1);
    fs::write(&file, CONFIG).unwrap();
    let output = daemon.ctl(&["--socket", "/nonexistent", "check", path]);
    assert!(done(&output).ends_with("valid, 1 rule\n"), "{}", output.stdout);
    assert_eq!(daemon.ctl_json(&["check", path])["rules"], 1);
    assert_eq!(daemon.ctl(&["check", "/nonexistent"]).code, 1);
}

#[test]
fn save_writes_the_startup_file_and_keeps_one_with_comments() {
    let (_topology, daemon) = running();
    assert_eq!(daemon.ctl(ADD).code, 0);
    let saved = daemon.ctl_json(&["save"]);
    assert_eq!(saved["path"], daemon.config().to_str().unwrap(), "{saved}");
    let backup = saved["backup"].as_str().unwrap();
    assert_eq!(fs::read_to_string(backup).unwrap(), CONFIG);
    let written = fs::read_to_string(daemon.config()).unwrap();
    assert_eq!(written, done(&daemon.ctl(&["show"])));
    assert_eq!(daemon.ctl_json(&["diff"])["added"], serde_json::json!([]));

    let other = daemon.directory().join("copy.json5");
    let saved = daemon.ctl_json(&["save", other.to_str().unwrap()]);
    assert_eq!(saved["backup"], Value::Null, "{saved}");
    assert_eq!(fs::read_to_string(other).unwrap(), written);
    let output = daemon.ctl(&["save", "/nonexistent/x.json5"]);
    assert_eq!(output.code, 1, "{}", output.stderr);
}

#[test]
fn statistics_workers_memberships_and_interfaces_are_shown() {
    let (_topology, daemon) = running();
    let stats = daemon.ctl_json(&["stats"]);
    assert_fields(&stats, &["rules", "workers", "drops", "skips"]);
    assert_fields(&stats["rules"][0], &["id", "name", "packets", "bytes", "pps", "bps", "outputs", "due"]);
    let output = &stats["rules"][0]["outputs"][0];
    assert_fields(output, &["interface", "group", "port", "packets", "bytes", "errors", "drops"]);
    assert_fields(&stats["workers"][0], &["interface", "core", "pid", "received", "matched", "kernel_drops"]);

    let workers = daemon.ctl_json(&["workers"]);
    let fields =
        ["interface", "core", "pid", "state", "generation", "ruleset_hash", "restarts", "uptime_s", "io"];
    assert_fields(&workers["workers"][0], &fields);
    assert_eq!(workers["workers"][0]["io"], "recvmmsg", "{workers}");
    assert_eq!(workers["workers"][0]["interface"], "eth0", "{workers}");

    let memberships = daemon.ctl_json(&["memberships"]);
    let membership = &memberships["memberships"][0];
    assert_eq!((&membership["interface"], &membership["group"]), (&"eth0".into(), &"239.1.1.1".into()));
    assert_eq!(membership["joined"], true, "{memberships}");

    let interfaces = daemon.ctl_json(&["interfaces"]);
    let eth0 = interfaces["interfaces"].as_array().unwrap().iter().find(|i| i["name"] == "eth0").unwrap();
    assert_fields(
        eth0,
        &["index", "kind", "mtu", "up", "carrier", "multicast", "addresses", "inputs", "outputs"],
    );
    let addresses = eth0["addresses"].as_array().unwrap();
    assert!(addresses.contains(&"10.1.0.2/24".into()), "{eth0}");

    for (command, word) in [
        ("stats", "RULE"),
        ("workers", "recvmmsg"),
        ("memberships", "239.1.1.1"),
        ("interfaces", "10.1.0.2/24"),
    ] {
        let output = daemon.ctl(&[command]);
        assert!(done(&output).contains(word), "{command}: {}", output.stdout);
    }
}

#[test]
fn log_levels_change_while_it_runs() {
    let (_topology, daemon) = running();
    let levels = daemon.ctl_json(&["log-level", "get"]);
    assert_fields(&levels, &["default", "facilities"]);
    assert_eq!(levels["facilities"].as_object().unwrap().len(), 6, "{levels}");
    let levels = daemon.ctl_json(&["log-level", "set", "debug", "--facility", "control"]);
    assert_eq!(levels["facilities"]["control"], "debug", "{levels}");
    assert_eq!(levels["facilities"]["workers"], levels["default"], "{levels}");
    daemon.ctl_json(&["ping"]);
    assert!(daemon.log().contains("io.mcr.Control.Ping"), "{}", daemon.log());
    // Workers are told too: an applied rule set is a message of theirs at level debug.
    assert!(!daemon.log().contains("rule set applied"), "{}", daemon.log());
    daemon.ctl_json(&["log-level", "set", "debug", "--facility", "dataplane"]);
    done(&daemon.ctl(ADD));
    wait_until("the worker says that it applied the rule set", Duration::from_secs(5), || {
        daemon.log().contains("rule set applied")
    });
    let levels = daemon.ctl_json(&["log-level", "set", "warn"]);
    assert!(levels["facilities"].as_object().unwrap().values().all(|level| level == "warn"), "{levels}");
}

#[test]
fn ping_and_version_answer() {
    let (_topology, daemon) = running();
    assert!(daemon.ctl_json(&["ping"])["round_trip_us"].is_u64());
    let versions = daemon.ctl_json(&["version"]);
    assert_fields(&versions, &["mcrctl", "mcrd", "protocol"]);
    assert_eq!(versions["mcrctl"], versions["mcrd"], "{versions}");
}

#[test]
fn exit_codes_tell_usage_from_absence() {
    let (_topology, daemon) = running();
    assert_eq!(daemon.ctl(&["frobnicate"]).code, 2);
    assert_eq!(daemon.ctl(&["remove"]).code, 2);
    let gone = daemon.ctl(&["--socket", "/nonexistent", "list"]);
    assert_eq!((gone.code, gone.stdout.as_str()), (3, ""));
    assert!(gone.stderr.starts_with("error: can't reach mcrd on /nonexistent"), "{}", gone.stderr);
    assert!(gone.stderr.contains("\nhint: "), "{}", gone.stderr);
}
