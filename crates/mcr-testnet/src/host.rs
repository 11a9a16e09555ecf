//! A host: a network namespace with a name for messages.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use mcr_sys::link::IfIndex;
use mcr_sys::process::CommandExt;
use mcr_sys::test_env::create_tun;

use crate::{LinkSetup, NetNamespace};

/// IPv4 settings that a network namespace inherits from this system, with the kernel's defaults (ip-sysctl in the
/// kernel's documentation; `net.core.devconf_inherit_init_net`).
const INHERITED: [(&str, &str); 3] = [("forwarding", "0"), ("rp_filter", "0"), ("force_igmp_version", "0")];

/// A network namespace with loopback up and the kernel's default settings. It exists as long as this value and the
/// processes in it.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: NetNamespace,
    setup: Mutex<LinkSetup>,
}

impl Host {
    /// A host without links.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let namespace = NetNamespace::create().unwrap_or_else(|error| {
            panic!("make the network namespace of {name}: {error}; run `cargo xtask test`")
        });
        let setup = LinkSetup::in_namespace(&namespace).expect("open netlink in a namespace");
        let host = Self { name: name.to_owned(), namespace, setup: Mutex::new(setup) };
        host.run(restore_defaults);
        host.setup("lo", |links| links.set_up("lo", true));
        host
    }

    /// Its namespace, for sockets and processes.
    #[must_use]
    pub fn namespace(&self) -> &NetNamespace {
        &self.namespace
    }

    /// Runs `work` on a thread in this host's namespace; sockets that it opens stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap_or_else(|error| panic!("enter {}: {error}", self.name))
    }

    /// Creates a tun interface, removed when the value is dropped; if this user may not, as where only root may open
    /// /dev/net/tun, prints the reason and returns `None`.
    #[must_use]
    #[expect(clippy::print_stdout, reason = "skipped tests print a message")]
    pub fn tun(&self, name: &str) -> Option<OwnedFd> {
        match self.run(|| create_tun(name)) {
            Ok(tun) => Some(tun),
            Err(error)
                if matches!(error.source.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) =>
            {
                println!("skipped: no tun interface {name}: {error}");
                None
            }
            Err(error) => panic!("make the tun interface {name} of {}: {error}", self.name),
        }
    }

    /// Returns a command that runs on this host and is killed when the thread that starts it exits.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.namespace.apply_to(&mut command).expect("duplicate a namespace");
        command.die_with_parent();
        command
    }

    /// Runs a program and waits for its exit.
    pub fn output<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[A]) -> Output {
        let mut command = self.command(program);
        command.args(arguments).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Creates a veth pair to another host; both ends are up and without addresses, automatic ones included.
    pub fn cable(&self, interface: &str, other: &Self, other_interface: &str) {
        self.setup(interface, |links| links.create_veth(interface, other_interface, &other.namespace));
        for (host, name) in [(self, interface), (other, other_interface)] {
            host.setup(name, |links| {
                links.disable_automatic_ipv6(name)?;
                links.set_up(name, true)
            });
        }
    }

    /// Adds an address such as `10.1.0.1/24` or `fd01::1/64`.
    pub fn add_address(&self, interface: &str, address: &str) {
        let (address, prefix) = parse(address);
        self.setup(interface, |links| links.add_address(interface, address, prefix));
    }

    /// Removes an address such as `10.1.0.1/24`.
    pub fn remove_address(&self, interface: &str, address: &str) {
        let (address, prefix) = parse(address);
        self.setup(interface, |links| links.remove_address(interface, address, prefix));
    }

    /// Sets an interface up or down.
    pub fn set_up(&self, interface: &str, up: bool) {
        self.setup(interface, |links| links.set_up(interface, up));
    }

    /// Sets the MTU of an interface, bytes.
    pub fn set_mtu(&self, interface: &str, mtu: u32) {
        self.setup(interface, |links| links.set_mtu(interface, mtu));
    }

    /// Deletes an interface, and its veth peer.
    pub fn delete(&self, interface: &str) {
        self.setup(interface, |links| links.delete(interface));
    }

    /// The index of an interface.
    pub fn index(&self, interface: &str) -> IfIndex {
        self.setup(interface, |links| links.index(interface))
    }

    /// Any other change of this host's interfaces; `interface` is for the message only.
    pub fn setup<T>(&self, interface: &str, change: impl FnOnce(&mut LinkSetup) -> mcr_sys::Result<T>) -> T {
        change(&mut self.setup.lock().unwrap_or_else(PoisonError::into_inner))
            .unwrap_or_else(|error| panic!("{} of {}: {error}", interface, self.name))
    }
}

fn parse(address: &str) -> (IpAddr, u8) {
    let parse = || -> Option<(IpAddr, u8)> {
        let (address, prefix) = address.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    };
    parse().unwrap_or_else(|| panic!("{address:?} is not ADDRESS/PREFIX"))
}

/// Resets the inherited settings of this thread's network namespace to the kernel's defaults.
fn restore_defaults() {
    for interface in ["all", "default", "lo"] {
        for (name, default) in INHERITED {
            let path = format!("/proc/sys/net/ipv4/conf/{interface}/{name}");
            let value = std::fs::read_to_string(&path).unwrap_or_default();
            if value.trim() != default {
                std::fs::write(&path, default).unwrap_or_else(|error| panic!("write {path}: {error}"));
            }
        }
    }
}
