//! R19: a thousand interfaces appear at once (300 unless `MCR_VETHS` says otherwise).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_sys::process::Signal;
use mcr_testnet::{Daemon, Host, Topology, assert_accounting, wait_for};
use serde_json::Value;

use super::probe::{Listener, Sender};
use super::{assert_gapless, assert_within, processes, setting};
use crate::scenario::{input, output, relay, rule};

const PROMISED: Duration = Duration::from_secs(2);
/// More events than the daemon's netlink buffer holds while it does not read.
const EVENTS: u32 = 8_000;

/// Index, MTU, whether up, whether with carrier, addresses.
type Seen = (u64, u64, bool, bool, BTreeSet<String>);

/// What iproute2 says.
fn truth(host: &Host) -> BTreeMap<String, Seen> {
    let output = host.output("ip", &["-j", "address"]);
    let links: Value = serde_json::from_slice(&output.stdout).expect("ip -j address");
    let links = links.as_array().cloned().unwrap_or_default();
    links
        .into_iter()
        .map(|link| {
            let has = |flag: &str| link["flags"].as_array().into_iter().flatten().any(|one| one == flag);
            let addresses = link["addr_info"].as_array().into_iter().flatten();
            let addresses = addresses
                .filter_map(|one| Some(format!("{}/{}", one["local"].as_str()?, one["prefixlen"])))
                .collect();
            let up = has("UP");
            let number = |field: &str| link[field].as_u64().unwrap_or_default();
            let name = link["ifname"].as_str().unwrap_or_default().to_owned();
            (name, (number("ifindex"), number("mtu"), up, up && !has("NO-CARRIER"), addresses))
        })
        .collect()
}

/// What the daemon knows.
fn known(daemon: &Daemon) -> BTreeMap<String, Seen> {
    let reply = daemon.ctl_json(&["interfaces"]);
    let interfaces = reply["interfaces"].as_array().cloned().unwrap_or_default();
    interfaces
        .into_iter()
        .map(|one| {
            let addresses = one["addresses"].as_array().into_iter().flatten();
            let addresses = addresses.filter_map(|address| address.as_str().map(str::to_owned)).collect();
            let number = |field: &str| one[field].as_u64().unwrap_or_default();
            let is = |field: &str| one[field] == true;
            let name = one["name"].as_str().unwrap_or_default().to_owned();
            (name, (number("index"), number("mtu"), is("up"), is("carrier"), addresses))
        })
        .collect()
}

fn wait_until_known(host: &Host, daemon: &Daemon) -> Duration {
    let moment = monotonic();
    wait_for("the daemon to know every interface", 5 * PROMISED, || {
        let (truth, known) = (truth(host), known(daemon));
        let wrong: Vec<_> = truth.iter().filter(|(name, seen)| known.get(*name) != Some(*seen)).collect();
        if wrong.is_empty() && truth.len() == known.len() {
            return Ok(());
        }
        Err(format!(
            "{} of {} are not as known ({}): {:?}",
            wrong.len(),
            truth.len(),
            known.len(),
            wrong.first()
        ))
    });
    monotonic().saturating_sub(moment)
}

on_both_backends! {
    fn a_storm_of_interfaces_disturbs_no_flow(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
        let before = processes(&daemon);
        let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.1");
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
        listener.first_after(monotonic());
        let host = &topology.relay;
        let count = setting("MCR_VETHS").unwrap_or(300);
        let begun = monotonic();
        host.setup("storm", |links| {
            for number in 0..count {
                let (one, other) = (format!("s{number}a"), format!("s{number}b"));
                links.create_veth(&one, &other, host.namespace())?;
                links.set_up(&one, true)?;
            }
            Ok(())
        });
        println!("{count} veths made in {:?}", monotonic().saturating_sub(begun));
        assert_within("R19 a storm is known", PROMISED, vec![wait_until_known(host, &daemon)]);

        // The same while the daemon can't read, until the kernel has to throw events away.
        daemon.signal(Signal::STOP);
        host.setup("storm", |links| {
            (0..EVENTS).try_for_each(|number| links.set_mtu("s0a", 1400 + number % 64))?;
            links.delete("s1a")?;
            links.set_up("s2b", true)?;
            links.create_veth("late", "later", host.namespace())
        });
        host.add_address("s3a", "10.77.0.1/24");
        host.add_address("s3a", "fd77::1/64");
        daemon.signal(Signal::CONT);
        assert_within("R19 known after an overrun", PROMISED, vec![wait_until_known(host, &daemon)]);
        let log = daemon.log();
        assert!(log.contains("events were lost; reading all links and addresses again"), "the overrun was noticed: {log}");

        listener.first_after(monotonic());
        crate::network_changes::assert_untouched(&daemon, &before);
        sender.finish();
        assert_accounting(&daemon.settled_stats());
        assert_gapless("the flow", &listener);
    }
}
