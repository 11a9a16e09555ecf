//! `mcrctl exporter`: what `mcrctl stats` says, in the format of Prometheus; checked by Prometheus itself where it is
//! installed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mcr_testnet::{Daemon, Host, IoBackend, Topology, assert_accounting, binary, wait_for};
use serde_json::Value;

use crate::scenario::{input, output, recv, relay, rule, send, with};

const DEADLINE: Duration = Duration::from_secs(30);

/// A child that ends with the test.
pub(crate) struct Ends(pub(crate) Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running exporter on the relay, and where it says that it listens.
fn exporter(daemon: &Daemon, host: &Host, listen: &str) -> (Ends, String) {
    let mut command = host.command(binary("mcrctl"));
    command
        .arg("--socket")
        .arg(daemon.socket())
        .args(["exporter", "--listen", listen])
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    (Ends(child), line.trim_start_matches("serving ").trim().to_owned())
}

fn get(mut stream: impl Read + Write, path: &str, accept: &str) -> (String, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: mcr\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    (head.to_owned(), body.to_owned())
}

/// The samples of an exposition: name and labels, and value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

fn relayed_some() -> (Topology, Daemon) {
    let topology = Topology::sender_relay_receiver();
    // Two outputs that are alike but for their TTL.
    let again = with(output("239.2.2.1"), "ttl", 8);
    let studio = with(rule(input("239.1.1.1"), [output("239.2.2.1"), again]), "name", "studio");
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[studio]);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let sent = send(&topology.sender, "eth0", "239.1.1.1", "--rate 1000 --count 300 --size 200").finish();
    assert_eq!(sent["sent"], 300);
    drop(receiver);
    (topology, daemon)
}

#[test]
fn it_says_what_stats_says_over_tcp_and_over_a_unix_socket() {
    let (topology, daemon) = relayed_some();
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    let path = daemon.directory().join("metrics.sock");
    let (unix, told) = exporter(&daemon, &topology.relay, &format!("unix:{}", path.display()));
    assert!(told.contains("metrics.sock"), "{told}");
    let (head, text) = get(UnixStream::connect(&path).unwrap(), "/metrics", "application/openmetrics-text");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("# EOF\n") && text.contains("# TYPE mcr_rule_datagrams counter\n"), "{text}");
    let seen = samples(&text);
    let expect = |name: &str, value: f64| assert_eq!(seen.get(name), Some(&value), "{name} in {text}");
    expect("mcr_up", 1.0);
    expect("mcr_rule_datagrams_total{rule=\"studio\"}", 300.0);
    expect("mcr_rule_bytes_total{rule=\"studio\"}", 60_000.0);
    expect("mcr_rule_frames_total{rule=\"studio\"}", 300.0);
    expect("mcr_interface_aggregation{interface=\"eth0\",reason=\"low_rate\"}", 0.0);
    expect("mcr_rule_active{rule=\"studio\"}", 1.0);
    expect("mcr_output_datagrams_total{rule=\"studio\",output=\"eth1 239.2.2.1:6001\"}", 300.0);
    expect("mcr_output_datagrams_total{rule=\"studio\",output=\"eth1 239.2.2.1:6001 #2\"}", 300.0);
    expect("mcr_worker_received_total{worker=\"eth0/0\"}", stats["workers"][0]["received"].as_f64().unwrap());
    expect("mcr_membership_joined{interface=\"eth0\",group=\"239.1.1.1\",source=\"\"}", 1.0);
    for (kind, family) in [("skips", "mcr_skips_total"), ("drops", "mcr_drops_total")] {
        for (reason, n) in stats[kind].as_object().unwrap() {
            expect(&format!("{family}{{reason=\"{reason}\"}}"), n.as_f64().unwrap());
        }
    }
    // One that was killed leaves its socket file, and the next one takes the place.
    drop(unix);
    assert!(path.exists());
    let _unix = exporter(&daemon, &topology.relay, &format!("unix:{}", path.display()));
    let (_tcp, told) = exporter(&daemon, &topology.relay, "127.0.0.1:0");
    let address = told.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
    let (head, text) =
        topology.relay.run(|| get(TcpStream::connect(&address).unwrap(), "/metrics", "text/plain"));
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("version=0.0.4"), "{head}");
    assert!(text.contains("# TYPE mcr_rule_datagrams_total counter\n"), "{text}");
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../user_docs/OPERATIONS.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(manual.contains(&format!("`{family}`")), "{family} is not in OPERATIONS.md");
    }
}

#[test]
fn a_daemon_that_is_gone_is_a_metric_and_the_exporter_goes_on() {
    let (topology, mut daemon) = relayed_some();
    let path = daemon.directory().join("metrics.sock");
    let _exporter = exporter(&daemon, &topology.relay, &format!("unix:{}", path.display()));
    let up = || samples(&get(UnixStream::connect(&path).unwrap(), "/metrics", "*/*").1)["mcr_up"];
    assert!((up() - 1.0).abs() < f64::EPSILON);
    daemon.kill_and_restart(&topology.relay, |_| {});
    wait_for("the next daemon's metrics", DEADLINE, || if up() > 0.5 { Ok(()) } else { Err(()) });
    assert!(daemon.terminate().success());
    assert!(up().abs() < f64::EPSILON);
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn passes(mut command: Command, stdin: &str) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// A real Prometheus server scrapes, a query returns what `stats` says, and its tools have nothing to say against the
/// metrics, the alert rules, or the dashboard's queries.
#[test]
fn prometheus_scrapes_queries_and_finds_no_fault() {
    if !(installed("prometheus") && installed("promtool")) {
        println!("skipped: no prometheus here");
        return;
    }
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/grafana");
    let (topology, daemon) = relayed_some();
    let (_exporter, told) = exporter(&daemon, &topology.relay, "127.0.0.1:0");
    let address = told.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
    let (_, text) = topology.relay.run(|| get(TcpStream::connect(&address).unwrap(), "/metrics", "*/*"));
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]);
    passes(check, &text);
    let mut check = Command::new("promtool");
    check.args(["check", "rules"]).arg(packaging.join("alerts.yml"));
    passes(check, "");

    let directory = daemon.directory();
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n  - job_name: mcr\n    static_configs: [{{targets: [\"{address}\"]}}]\n",
        packaging.join("alerts.yml").canonicalize().unwrap().display()
    );
    std::fs::write(directory.join("prometheus.yml"), config).unwrap();
    let mut command = topology.relay.command("prometheus");
    command
        .arg(format!("--config.file={}", directory.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg("--web.listen-address=127.0.0.1:9090")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _prometheus = Ends(command.spawn().unwrap());
    let query = |expression: &str| -> Result<Vec<Value>, String> {
        let path = format!("/api/v1/query?query={}", encoded(expression));
        let stream =
            topology.relay.run(|| TcpStream::connect("127.0.0.1:9090")).map_err(|error| error.to_string())?;
        let (head, body) = get(stream, &path, "application/json");
        let answer: Value = serde_json::from_str(&body).map_err(|_| format!("{head}: {body}"))?;
        if answer["status"] != "success" {
            return Err(format!("{expression}: {answer}"));
        }
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    };
    let expression = "sum by (rule) (mcr_rule_datagrams_total{rule=\"studio\"})";
    wait_for("a sample in Prometheus", 2 * DEADLINE, || match query(expression) {
        Ok(found) if found.len() == 1 && found[0]["value"][1] == "300" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Every query of the dashboard is one.
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(packaging.join("mcr.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut queries = 0;
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let filled = ["$job", "$instance", "$rule"]
            .iter()
            .fold(expression.replace("$__rate_interval", "30s"), |text, name| text.replace(name, ".*"));
        query(&filled).unwrap();
        for name in filled.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            if name.starts_with("mcr_") {
                assert!(text.contains(&format!("# TYPE {name} ")), "{name} of {expression} is not exported");
            }
        }
        queries += 1;
    }
    assert!(queries >= 15, "{queries}");
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}
