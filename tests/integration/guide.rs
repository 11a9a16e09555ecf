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
/// `sudo` is nothing for who is root, `scp HOST:FILE` takes from the world of that host, WireGuard is a program where the
/// kernel has none, what goes on until it is interrupted is interrupted, and who types is slower than a daemon that starts
/// (exit code 3: it can't be reached).
const PRELUDE: &str = r#"set -euo pipefail; cd /root
sudo() { "$@"; }
scp() { cp "$WORLDS/${1%%:*}/root/${1#*:}" "$2"; }
ip() {
  if [ "$*" = "link add wg0 type wireguard" ]; then
    command ip "$@" || wireguard-go wg0
  else
    command ip "$@"
  fi
}
mcrctl() {
  case "$*" in *--watch*) timeout -s INT 1 mcrctl "$@" || [ $? = 124 ]; return;; esac
  for _ in $(seq 100); do
    code=0; command mcrctl "$@" || code=$?
    [ "$code" = 3 ] || return "$code"
    sleep 0.1
  done
}
"#;

/// A fenced block: the section it is in, the host it is for, and its lines.
struct Block {
    section: String,
    host: String,
    script: String,
}

/// All blocks of shell, in order.
fn blocks(markdown: &str) -> Vec<Block> {
    let sections = markdown.split("\n## ");
    let in_section = |text: &str| {
        let section = text.lines().next().unwrap_or_default().to_owned();
        let fences = text.split("```sh").skip(1).map(|rest| {
            let (host, rest) = rest.split_once('\n').unwrap();
            let script = rest.split_once("```").unwrap().0;
            Block { section: section.clone(), host: host.trim().to_owned(), script: script.to_owned() }
        });
        fences.collect::<Vec<_>>()
    };
    sections.flat_map(in_section).collect()
}

/// Process, mount and file namespaces that all blocks share; everything in them ends with it.
struct World {
    holder: Child,
    directory: PathBuf,
}

impl World {
    /// The world of a host; its files are in a directory of its name, so that the other hosts can copy them.
    fn new(worlds: &Path, host: &str) -> Self {
        let directory = worlds.join(host);
        std::fs::create_dir(&directory).unwrap();
        let place = directory.display();
        let script = format!(
            "set -e; mount --make-rprivate /; mkdir {place}/root {place}/etc
             mount -t tmpfs tmpfs /run; mkdir /run/mcr; mount --bind {place}/root /root
             mount -t tmpfs tmpfs {place}/etc; cp /etc/group /etc/passwd /etc/nsswitch.conf {place}/etc/
             mount --bind {place}/etc /etc; mount -t proc proc /proc; touch {place}/ready; exec sleep infinity"
        );
        let holder = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "bash", "-c", &script])
            .spawn()
            .unwrap();
        let ready = directory.join("ready");
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
        let output = self.directory.join(format!("output-{number}"));
        let file = std::fs::File::create(&output).unwrap();
        let mut command = host.command("nsenter");
        let binaries = mcr_testnet::binary("mcrd").parent().map(Path::to_path_buf).unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var_os("PATH").unwrap().display());
        command.args([
            &format!("--mount=/proc/{0}/ns/mnt", self.inside()),
            &format!("--pid=/proc/{0}/ns/pid", self.inside()),
        ]);
        command.args(["bash", "-c", &format!("{PRELUDE}{}", block.script)]).env("PATH", path);
        command.env("WORLDS", self.directory.parent().unwrap());
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

/// Runs the blocks on these hosts, but not those of the sections that this machine can't do.
fn run(markdown: &str, hosts: &[(&str, &Host)]) {
    let directory = tempfile::tempdir().unwrap();
    let mut worlds: BTreeMap<&str, World> = BTreeMap::new();
    let mut receivers = Vec::new();
    let has_wireguard = has_wireguard();
    for (number, block) in blocks(markdown).iter().enumerate() {
        if block.host == "project" || block.section.contains("WireGuard") && !has_wireguard {
            continue;
        }
        let known = hosts.iter().find(|(name, _)| *name == block.host);
        let (name, host) = known.unwrap_or_else(|| panic!("no host {:?} for\n{}", block.host, block.script));
        let world = worlds.entry(name).or_insert_with(|| World::new(directory.path(), name));
        let example = world.start(number, block, host);
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

/// Whether this machine has WireGuard, in its kernel or as a program.
fn has_wireguard() -> bool {
    let works = |program: &str, arguments: &[&str]| {
        let quiet =
            Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    };
    let host = Host::new("wireguard");
    let in_kernel = host.output("ip", &["link", "add", "wg0", "type", "wireguard"]).status.success();
    // On one core it does not keep up with the examples' streams: its interface's queue overflows.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let as_program = || cores > 1 && works("wireguard-go", &["--version"]) && host.tun("tun0").is_some();
    let there = works("wg", &["--version"]) && (in_kernel || as_program());
    if !there {
        println!(
            "skipped: the guide's examples of WireGuard: the kernel has none, nor can wireguard-go be used (on two cores)"
        );
    }
    there
}

#[test]
fn the_examples_of_the_readme_run() {
    let topology = Topology::sender_relay_receiver();
    let hosts = [("sender", &topology.sender), ("relay", &topology.relay), ("receiver", &topology.receiver)];
    run(README, &hosts);
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
    run(GUIDE, &hosts);
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
        let step = format!("step \"$xtask\" {command}");
        assert!(CI.contains(&step), ".ci/run, where $xtask is what `cargo xtask` runs, lacks {step}");
    }
}
