//! Network cards in the hosts of a topology.
//!
//! ```text
//!  sender eth0 ══ relay eth0        relay eth1 ══ receiver eth0          ══ a cable between two cards
//! ```
//!
//! `MCR_CARDS=nic0:nic1,nic2:nic3` names the cards of this machine at the two ends of each of the two cables. They leave its
//! network namespace for a test, and return when it ends. `MCR_CARDS_CONSOLE` is a file whose reader passes
//! commands to qemu's monitor; without it, cables stay plugged in.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::{Host, LinkSetup, NetNamespace, Topology, wait_for};

const DEADLINE: Duration = Duration::from_secs(30);
/// A driver notices its cable within this time, if at all.
const NOTICE: Duration = Duration::from_secs(5);
/// There is one set of cards: a test locks this file, in the directory for temporary files, while it uses them.
const LOCK: &str = "mcr-cards.lock";

/// A card in a host.
struct Card {
    /// Its name in this machine's namespace, which is qemu's name for it, too.
    name: String,
    host: usize,
    /// Its name in the host.
    interface: &'static str,
    /// The file system's directory of the device, such as a PCI device.
    device: PathBuf,
    address: String,
}

/// A topology whose links are cables between cards.
pub(crate) struct Cables {
    pub(crate) topology: Topology,
    cards: Vec<Card>,
    console: Option<PathBuf>,
    _alone: File,
}

/// Where the four cards go: the host, its name there, and its addresses.
const PLACES: [(usize, &str, &str, &str); 4] = [
    (0, "eth0", "10.1.0.1/24", "fd01::1/64"),
    (1, "eth0", "10.1.0.2/24", "fd01::2/64"),
    (1, "eth1", "10.2.0.1/24", "fd02::1/64"),
    (2, "eth0", "10.2.0.2/24", "fd02::2/64"),
];

impl Cables {
    /// Takes the cards; `None`, after saying so, where there are none.
    pub(crate) fn lay() -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "the cards of the machine are named from outside")]
        let (named, console) = (std::env::var("MCR_CARDS").ok(), std::env::var("MCR_CARDS_CONSOLE").ok());
        let names: Vec<String> = named
            .unwrap_or_default()
            .split([',', ':'])
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let Ok(names) = <[String; 4]>::try_from(names) else {
            println!(
                "skipped: MCR_CARDS does not name four network cards; `cargo xtask lab --nic MODEL` has some"
            );
            return None;
        };
        let alone = File::create(std::env::temp_dir().join(LOCK)).expect("create a lock");
        alone.lock().expect("lock the cards");
        let topology = Topology {
            sender: Host::new("sender"),
            relay: Host::new("relay"),
            receiver: Host::new("receiver"),
        };
        let cards =
            names.into_iter().zip(PLACES).map(|(name, (host, interface, ..))| {
                let directory = Path::new("/sys/class/net").join(&name);
                wait_for("a card", DEADLINE, || {
                    if directory.exists() { Ok(()) } else { Err(format!("no {name}")) }
                });
                let device = std::fs::canonicalize(directory.join("device")).expect("a device");
                let address = std::fs::read_to_string(directory.join("address")).expect("a hardware address");
                Card { name, host, interface, device, address: address.trim().to_owned() }
            });
        let cables =
            Self { cards: cards.collect(), topology, console: console.map(PathBuf::from), _alone: alone };
        for number in 0..PLACES.len() {
            cables.plug(number);
        }
        cables.wait_for_carriers();
        Some(cables)
    }

    pub(crate) fn host(&self, number: usize) -> &Host {
        [&self.topology.sender, &self.topology.relay, &self.topology.receiver][self.cards[number].host]
    }

    /// Moves a card from this machine's namespace to its host, and sets it up.
    fn plug(&self, number: usize) {
        let card = &self.cards[number];
        let name = &card.name;
        let host = self.host(number);
        let mut links = machine();
        links.set_up(name, false).expect("set a card down");
        links.move_to(name, host.namespace()).expect("move a card");
        let (_, interface, v4, v6) = PLACES[number];
        host.setup(name, |links| links.rename(name, interface));
        host.setup(interface, |links| links.disable_automatic_ipv6(interface));
        for address in [v4, v6, &format!("fe80::{}/64", number + 1)] {
            host.add_address(interface, address);
        }
        host.set_up(interface, true);
    }

    /// Waits until all cards have a carrier.
    pub(crate) fn wait_for_carriers(&self) {
        for (number, card) in self.cards.iter().enumerate() {
            wait_for("a carrier", DEADLINE, || {
                if has_carrier(self.host(number), card.interface) { Ok(()) } else { Err(card.interface) }
            });
        }
    }

    /// Pulls the cable out of a card, or plugs it in. False, after saying so, where nobody can.
    pub(crate) fn set_carrier(&self, number: usize, on: bool) -> bool {
        let Some(console) = &self.console else {
            println!("skipped: MCR_CARDS_CONSOLE is not set, so nobody can pull a cable");
            return false;
        };
        let card = &self.cards[number];
        let command = format!("lab: monitor: set_link {} {}\n", card.name, if on { "on" } else { "off" });
        let mut file = File::options().write(true).open(console).expect("open the console");
        file.write_all(command.as_bytes()).expect("write to the console");
        // The e1000e of qemu 7.2 raises no interrupt for it, and its driver looks only when it restarts, which takes seconds.
        let (host, mut since) = (self.host(number), monotonic());
        wait_for("the driver's notice", DEADLINE, || {
            if has_carrier(host, card.interface) == on {
                return Ok(());
            }
            if monotonic().saturating_sub(since) > NOTICE {
                since = monotonic();
                host.output("ethtool", &["-r", card.interface]);
            }
            Err(format!("{}: still {}", card.interface, if on { "no carrier" } else { "a carrier" }))
        });
        true
    }

    /// Takes a card's driver from it and gives it back: the interface is deleted and made anew.
    pub(crate) fn recreate(&self, number: usize) {
        let card = &self.cards[number];
        // A virtio network device is a device on a PCI device, and has a driver of its own.
        let driver = std::fs::canonicalize(card.device.join("driver")).expect("a driver");
        let id = card.device.file_name().expect("a name").to_string_lossy().into_owned();
        std::fs::write(driver.join("unbind"), &id).expect("unbind a driver");
        std::fs::write(driver.join("bind"), &id).expect("bind a driver");
        let mut found = None;
        wait_for("the card again", DEADLINE, || {
            found = by_address(&card.address);
            if found.is_some() { Ok(()) } else { Err(card.address.clone()) }
        });
        machine().rename(&found.expect("a name"), &card.name).expect("rename a card");
        self.plug(number);
    }
}

impl Drop for Cables {
    /// Gives the cards back under their names.
    fn drop(&mut self) {
        let back = NetNamespace::current().expect("this namespace");
        for (number, card) in self.cards.iter().enumerate() {
            let host = self.host(number);
            let give = |links: &mut LinkSetup| {
                links.set_up(card.interface, false)?;
                links.rename(card.interface, &card.name)?;
                links.move_to(&card.name, &back)
            };
            if std::thread::panicking() {
                // Whatever is wrong is told already; a namespace gives its cards back when it ends.
                let setup = LinkSetup::in_namespace(host.namespace());
                let _ = setup.and_then(|mut links| give(&mut links));
            } else {
                host.setup(card.interface, give);
            }
        }
    }
}

/// Whether an interface has a carrier, and the kernel uses it: between the driver's notice (`LOWER_UP`) and the kernel's work on it
/// (`operstate`), what is sent is discarded.
fn has_carrier(host: &Host, interface: &str) -> bool {
    let shown = host.output("ip", &["-o", "link", "show", interface]).stdout;
    let shown = String::from_utf8_lossy(&shown);
    shown.contains(",LOWER_UP") && shown.contains(" state UP ")
}

/// The interfaces of this machine.
fn machine() -> LinkSetup {
    let namespace = NetNamespace::current().expect("this namespace");
    LinkSetup::in_namespace(&namespace).expect("open netlink")
}

/// The interface of this machine with a hardware address.
fn by_address(address: &str) -> Option<String> {
    let entries = match std::fs::read_dir("/sys/class/net") {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        entries => entries.expect("read /sys/class/net"),
    };
    let mut names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| {
        let path = Path::new("/sys/class/net").join(name).join("address");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == address)
    })
}
