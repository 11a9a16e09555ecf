//! The shell examples of README.md and the guide, run as they are written: each block on the host that its fence names,
//! with `sudo` as root, all in one mount namespace with an `/etc` and a `/run` of its own.
//!
//! A block that receives (`mcrgen recv`) runs beside the ones that follow, and has to end well after the next sender.
//! Blocks for `project` are commands of the checkout; .ci/run has them as its own steps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mcr_testnet::{Host, Topology, wait_for};
use rustix::process::{Pid, Signal, kill_process};

const README: &str = include_str!("../../README.md");
const GUIDE: &str = include_str!("../../user_docs/GUIDE.md");
const CI: &str = include_str!("../../.ci/run");
/// A block takes seconds; this is for a machine under load.
const DEADLINE: Duration = Duration::from_secs(60);
/// `sudo` is nothing for who is root, what goes on until it is interrupted is interrupted, and who types is slower than a
/// daemon that starts (exit code 3: it can't be reached).
const PRELUDE: &str = r#"set -euo pipefail; cd /root
sudo() { "$@"; }
mcrctl() {
  case "$*" in *--watch*) timeout -s INT 1 mcrctl "$@" || [ $? = 124 ]; return;; esac
  for _ in $(seq 100); do
    code=0; command mcrctl "$@" || code=$?
    [ "$code" = 3 ] || return "$code"
    sleep 0.1
  done
}
"#;

/// A fenced block: the host it is for, and its lines.
struct Block {
    host: String,
    script: String,
}

/// All blocks of shell, in order.
fn blocks(markdown: &str) -> Vec<Block> {
    let fences = markdown.split("```sh").skip(1);
    fences
        .map(|rest| {
            let (host, rest) = rest.split_once('\n').unwrap();
            let script = rest.split_once("```").unwrap().0;
            Block { host: host.trim().to_owned(), script: script.to_owned() }
        })
        .collect()
}

/// Process, mount and file namespaces that all blocks share; everything in them ends with it.
struct World {
    holder: Child,
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display();
        let script = format!(
            "set -e; mount --make-rprivate /; mkdir {place}/upper {place}/work {place}/etc
             mount -t tmpfs tmpfs /run; mkdir /run/mcr; mount -t tmpfs tmpfs /root
             mount -t tmpfs tmpfs {place}/etc; cp -a /etc/group /etc/passwd /etc/nsswitch.conf {place}/etc/
             mount --bind {place}/etc /etc; mount -t proc proc /proc; touch {place}/ready; exec sleep infinity"
        );
        let holder = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "bash", "-c", &script])
            .spawn()
            .unwrap();
        let ready = directory.path().join("ready");
        wait_for("the world of the examples", DEADLINE, || {
            if ready.exists() { Ok(()) } else { Err("not ready") }
        });
        Self { holder, directory }
    }

    /// The first process in its process namespace.
    fn inside(&self) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.holder.id());
        std::fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    fn start(&self, number: usize, block: &Block, host: &Host) -> Example {
        let output = self.directory.path().join(format!("output-{number}"));
        let file = std::fs::File::create(&output).unwrap();
        let mut command = host.command("nsenter");
        let binaries = mcr_testnet::binary("mcrd").parent().map(Path::to_path_buf).unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var_os("PATH").unwrap().display());
        command.args([
            &format!("--mount=/proc/{0}/ns/mnt", self.inside()),
            &format!("--pid=/proc/{0}/ns/pid", self.inside()),
        ]);
        command.args(["bash", "-c", &format!("{PRELUDE}{}", block.script)]).env("PATH", path);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Example { process: command.spawn().unwrap(), script: block.script.clone(), output }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.holder);
        // --kill-child takes everything inside along.
        let _ = kill_process(pid, Signal::KILL);
        let _ = self.holder.wait();
    }
}

struct Example {
    process: Child,
    script: String,
    output: PathBuf,
}

impl Example {
    fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    fn has_to_succeed(mut self) {
        let status = wait_for(&self.script.clone(), DEADLINE, || match self.process.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err(self.printed()),
        });
        assert!(status.success(), "{status}:\n{}\nprinted:\n{}", self.script, self.printed());
    }

    fn is_ready(&self) {
        wait_for("a receiver's joins", DEADLINE, || {
            if self.printed().contains("ready") { Ok(()) } else { Err(self.printed()) }
        });
    }
}

/// Runs the blocks on these hosts; `tunnel` stands for the blocks of that name.
fn run(markdown: &str, hosts: &[(&str, &Host)], tunnel: impl Fn()) {
    let mut worlds: BTreeMap<&str, World> = BTreeMap::new();
    let mut receivers = Vec::new();
    for (number, block) in blocks(markdown).iter().enumerate() {
        match block.host.as_str() {
            "project" => continue,
            "tunnel" => {
                tunnel();
                continue;
            }
            _ => {}
        }
        let known = hosts.iter().find(|(name, _)| *name == block.host);
        let (name, host) = known.unwrap_or_else(|| panic!("no host {:?} for\n{}", block.host, block.script));
        let example = worlds.entry(name).or_insert_with(World::new).start(number, block, host);
        if block.script.contains("mcrgen recv") {
            example.is_ready();
            receivers.push(example);
        } else {
            example.has_to_succeed();
            if block.script.contains("mcrgen send") {
                receivers.drain(..).for_each(Example::has_to_succeed);
            }
        }
    }
    assert!(receivers.is_empty(), "a receiver without a sender");
}

/// Kernels of test machines lack WireGuard, so VXLAN stands for it, under its name.
fn tunnel(near: &Host, far: &Host) {
    println!("the tunnel is of VXLAN, under the name wg0");
    let ends =
        [(near, "10.2.0.1", "10.2.0.2", "10.100.0.1/24"), (far, "10.2.0.2", "10.2.0.1", "10.100.0.2/24")];
    for (host, local, remote, address) in ends {
        let ip = |line: &str| host.output("ip", &line.split_whitespace().collect::<Vec<_>>());
        for line in [
            &format!("link add wg0 type vxlan id 7 local {local} remote {remote} dstport 4789"),
            &format!("address add {address} dev wg0"),
            "link set wg0 up mtu 1420",
        ] {
            let output = ip(line);
            assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn the_examples_of_the_readme_run() {
    let topology = Topology::sender_relay_receiver();
    let hosts = [("sender", &topology.sender), ("relay", &topology.relay), ("receiver", &topology.receiver)];
    run(README, &hosts, || panic!("the README has no tunnel"));
}

#[test]
fn the_examples_of_the_guide_run() {
    // Cabled as the guide draws it: its sender has the addresses that the relay has elsewhere, so not `Topology`.
    let [sender, relay, remote, viewer] = ["sender", "relay", "remote", "viewer"].map(Host::new);
    for (near, interface, near_address, far, far_interface, far_address) in [
        (&sender, "eth0", "10.1.0.1/24", &relay, "eth0", "10.1.0.2/24"),
        (&relay, "eth1", "10.2.0.1/24", &remote, "eth0", "10.2.0.2/24"),
        (&remote, "eth1", "10.3.0.1/24", &viewer, "eth0", "10.3.0.2/24"),
        (&sender, "eth1", "10.4.0.1/24", &relay, "eth2", "10.4.0.2/24"),
        (&relay, "eth3", "10.5.0.1/24", &remote, "eth2", "10.5.0.2/24"),
    ] {
        near.cable(interface, far, far_interface);
        near.add_address(interface, near_address);
        far.add_address(far_interface, far_address);
    }
    relay.add_address("eth1", "fd02::1/64");
    let hosts = [("sender", &sender), ("relay", &relay), ("remote", &remote), ("viewer", &viewer)];
    run(GUIDE, &hosts, || tunnel(&relay, &remote));
}

/// What the documents tell developers to run is what the checks run.
#[test]
fn commands_of_the_project_are_among_the_checks() {
    let commands: Vec<String> = [README, GUIDE]
        .into_iter()
        .flat_map(blocks)
        .filter(|block| block.host == "project")
        .flat_map(|block| block.script.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.split('#').next()?.trim().strip_prefix("cargo xtask ").map(str::to_owned))
        .collect();
    assert!(commands.len() >= 3, "{commands:?}");
    for command in commands {
        assert!(CI.contains(&format!("step cargo xtask {command}")), ".ci/run lacks cargo xtask {command}");
    }
}
