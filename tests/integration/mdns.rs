//! Two real avahi daemons resolve each other's services through a two-way relay.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mcr_testnet::{Host, Topology, wait_for, wait_until};
use serde_json::{Value, json};

use crate::exporter::Ends;
use crate::scenario::{relay, stats_without_drops};

const DEADLINE: Duration = Duration::from_secs(30);
const SERVICE: &str = "_mcr-test._tcp";

fn missing_program() -> Option<&'static str> {
    ["dbus-daemon", "avahi-daemon", "avahi-browse", "avahi-publish"].into_iter().find(|program| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    })
}

/// A host with a message bus and an avahi daemon of its own.
struct Site<'a> {
    host: &'a Host,
    bus: String,
    children: Vec<Ends>,
}

impl<'a> Site<'a> {
    fn start(host: &'a Host, directory: &Path, name: &str) -> Self {
        let place = |what: &str| directory.join(format!("{name}.{what}")).display().to_string();
        let socket = place("bus");
        fs::write(
            place("dbus.conf"),
            format!(
                "<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>\
                 <policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>\
                 <allow own=\"*\"/><allow user=\"*\"/></policy></busconfig>"
            ),
        )
        .unwrap();
        fs::write(
            place("avahi.conf"),
            format!("[server]\nhost-name={name}\nuse-ipv6=no\n[publish]\npublish-workstation=no\n"),
        )
        .unwrap();
        let mut site = Self { host, bus: format!("unix:path={socket}"), children: Vec::new() };
        site.run("dbus-daemon", &["--nofork", "--nopidfile", "--config-file", &place("dbus.conf")]);
        wait_until("the message bus", DEADLINE, || Path::new(&socket).exists());
        // The path of its process id can't be chosen.
        let start = format!(
            "mkdir -p /run/avahi-daemon && mount -t tmpfs none /run/avahi-daemon && \
             exec avahi-daemon -f {} --no-drop-root --no-chroot --no-rlimits",
            place("avahi.conf")
        );
        site.run("unshare", &["--mount", "sh", "-c", &start]);
        site
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.host.command(program);
        command.args(arguments).env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus).stderr(Stdio::null());
        command
    }

    fn run(&mut self, program: &str, arguments: &[&str]) {
        let child = self.command(program, arguments).stdout(Stdio::null()).spawn().unwrap();
        self.children.push(Ends(child));
    }

    /// The services of [`SERVICE`] that are resolved here, one per line.
    fn services(&self) -> String {
        let output = self.command("avahi-browse", &["-rpt", SERVICE]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// As in GUIDE.
fn mdns(from: &str, to: &str) -> Value {
    json!({ "input": { "interface": from, "group": "224.0.0.251", "port": 5353 },
            "outputs": [{ "interface": to, "group": "224.0.0.251", "port": 5353, "ttl": 255, "source_port": 5353 }] })
}

on_both_backends! {
    fn avahi_resolves_services_of_the_other_network(io) {
        if let Some(program) = missing_program() {
            println!("skipped: no {program}");
            return;
        }
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[mdns("eth0", "eth1"), mdns("eth1", "eth0")]);
        let mut sites = [
            Site::start(&topology.sender, daemon.directory(), "sender"),
            Site::start(&topology.receiver, daemon.directory(), "receiver"),
        ];
        for (site, name) in sites.iter_mut().zip(["of the sender", "of the receiver"]) {
            // Waits for the daemon.
            site.run("avahi-publish", &["--no-fail", "--service", name, SERVICE, "631"]);
        }
        let [sender, receiver] = &sites;
        for (site, address) in [(receiver, "10.1.0.1"), (sender, "10.2.0.2")] {
            wait_for("the service of the other network", DEADLINE, || {
                let services = site.services();
                if services.contains(&format!(".local;{address};631;")) { Ok(()) } else { Err(services) }
            });
        }
        stats_without_drops(&daemon);
    }
}
