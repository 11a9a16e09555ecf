//! The command line: one definition per flag.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use mcr_control::trace::{
    DEFAULT_TRACE_RECORDS, DEFAULT_TRACE_S, MAX_TRACE_RECORDS, MAX_TRACE_S, MAX_TRACE_SAMPLE,
};
use mcr_control::{MAX_CONFIRM_S, MAX_LISTEN_MS};
use mcr_rules::log::{Facility, Level};
use mcr_rules::{MergeBy, MergeOptions, MergeOrder, RuleId, RuleName, StreamFormat};

use crate::http::Address;
use crate::output_list::{Interface, OutputList, parse_interface};

/// Heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// Control and monitor mcrd, the multicast relay daemon.
///
/// Data goes to stdout, messages to stderr. Exit codes: 0 success, 1 the request failed, 2 wrong usage, 3 mcrd can't be
/// reached.
#[derive(Debug, Parser)]
#[command(name = "mcrctl", version, about, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]
    #[arg(long, global = true, value_name = "PATH", overrides_with = "socket", help_heading = GLOBAL)]
    pub socket: Option<PathBuf>,
    /// Write JSON instead of tables
    #[arg(long, global = true, overrides_with = "json", help_heading = GLOBAL)]
    pub json: bool,
    /// Timeout for each reply from mcrd
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value = "30",
        value_parser = parse_seconds,
        overrides_with = "timeout",
        help_heading = GLOBAL
    )]
    pub timeout: Duration,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a rule to the running config
    #[command(after_help = OUTPUTS_HELP)]
    Add(AddArguments),
    /// Remove a rule from the running config
    Remove(RemoveArguments),
    /// List the rules and their state
    List,
    /// Print the running config as JSON5, which `load` accepts
    Show,
    /// Check a config file, without mcrd
    Check {
        /// Config file; - for stdin
        file: PathBuf,
    },
    /// Show what `load --replace FILE` would change
    Diff {
        /// Config file; - for stdin [default: mcrd's startup file]
        file: Option<PathBuf>,
    },
    /// Load a config file into the running config, atomically
    ///
    /// The change is in force when the command returns; if a worker does not acknowledge it within 5 seconds, the
    /// previous config is restored. A rule whose interface is missing or down becomes pending, which is not an error.
    /// Without --replace, the file's rules are added, a rule with the same input replaces the running one, the pinning of
    /// the interfaces that the file names is set, and everything else stays as it is, including the settings. Rules that
    /// do not change lose no datagram and keep their counters.
    Load(LoadArguments),
    /// Confirm the config that `load --confirm` loaded
    ///
    /// Until it is confirmed or restored, `add`, `remove`, `load`, `save` and a reload by SIGHUP are refused.
    Confirm {
        /// Restore the config from before the load now
        #[arg(long)]
        revert: bool,
    },
    /// Write the running config to mcrd's startup file, or to another file
    Save {
        /// File to write [default: mcrd's startup file]
        file: Option<PathBuf>,
    },
    /// Show the counters of rules and workers
    Stats {
        /// Repeat each second, with rates over 1 s and 10 s, until interrupted; with --json, one object per line
        #[arg(long)]
        watch: bool,
    },
    /// Show the flows that rules receive, by source
    ///
    /// One line per source address and port: its datagrams, rates, and the times of the first and the last datagram. A
    /// flow without a datagram for `settings.flow_silence_s` (default: 10 seconds) is silent.
    Flows {
        /// Rule id or name, as shown by `list` [default: all]
        rule: Option<String>,
    },
    /// Diagnose a rule: where its datagrams are lost, why, and how to fix it
    ///
    /// Listens on every interface for the rule's group, on any port and VLAN, and for IGMP and MLD queries.
    /// TROUBLESHOOTING describes each finding by its id.
    Explain {
        /// Rule id or name, as shown by `list`
        rule: String,
        #[command(flatten)]
        listen: Listen,
    },
    /// Diagnose all rules and the host
    ///
    /// Rules without findings are summarized; the others are explained.
    Doctor {
        #[command(flatten)]
        listen: Listen,
    },
    /// Show a live full-screen view of rules, workers and events
    ///
    /// Rules with rates and trends, outputs, drops by reason, workers with the load of their cores, interfaces, group
    /// memberships, and recent events. `?` shows the keys, `q` quits. Without a terminal, use `stats --watch`. With
    /// NO_COLOR=1 it uses no colors, in a locale without UTF-8 only ASCII.
    Top,
    /// Print events as lines of JSON, until interrupted
    ///
    /// Events are changes of state of rules, outputs, workers, links and memberships, and flows that start or stop.
    Events {
        /// Print plain text instead
        #[arg(long)]
        text: bool,
    },
    /// Trace single datagrams of a rule
    ///
    /// Records each arrival, whether the rule matched it, and the result of sending it on each output. Tracing costs some
    /// CPU time for the traced rule and none for others. A trace ends automatically.
    Trace {
        #[command(subcommand)]
        action: TraceAction,
    },
    /// Serve the counters as Prometheus metrics over HTTP
    ///
    /// Runs until it is terminated, and needs only read access to mcrd. GET /metrics returns the OpenMetrics format to
    /// clients that accept it, else the Prometheus text format.
    Exporter {
        /// Address to listen on: ADDRESS:PORT, or unix:PATH
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9478")]
        listen: Address,
    },
    /// List the worker processes
    Workers,
    /// List the multicast group memberships of the rules
    Memberships,
    /// List the host's interfaces as mcrd sees them
    Interfaces,
    /// Show or set log levels
    LogLevel {
        #[command(subcommand)]
        action: LogLevelAction,
    },
    /// Replace mcrd with another binary without losing a datagram
    ///
    /// The new binary is started with mcrd's options, takes over workers, sockets and memberships, and continues with the
    /// running config. If it is not ready within 10 seconds, mcrd continues as before. The workers of the old binary are
    /// then replaced one at a time.
    Upgrade {
        /// Binary to start [default: mcrd's own path]
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Check that mcrd responds
    Ping,
    /// Show the versions of mcrctl and mcrd
    Version,
    /// Print a shell completion script
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Shell
        shell: Shell,
    },
}

const COMPLETIONS_HELP: &str = "\
The package installs these scripts. To install them by hand:
  mcrctl completions bash > ~/.local/share/bash-completion/completions/mcrctl
  mcrctl completions zsh > ~/.zfunc/_mcrctl              # a directory of $fpath
  mcrctl completions fish > ~/.config/fish/completions/mcrctl.fish";

const OUTPUTS_HELP: &str = "\
Outputs:
  GROUP:PORT:INTERFACE, an IPv6 address in brackets; GROUP may be `broadcast`. Options follow after slashes:
    ttl=N|decrement    1 to 255, or the received TTL less 1 [default: 16]
    dscp=N|keep        0 to 63, or the received DSCP [default: 0]
    source=ADDRESS|keep     source address to send from, or the received one [default: the interface's]
    source_port=N|keep      source port, or the received one [default: any free one]
    loop=true|false         programs of this host that joined the group get it, too [default: false]
  Separate several outputs by commas, or repeat --outputs. Write a comma in an interface name as \\,

Examples:
  mcrctl add --input-interface eth0 --input-group 239.1.1.1 --input-port 5000 \\
      --outputs 239.2.2.2:5001:eth1
  mcrctl add --input-interface eth0 --input-group 232.1.1.1 --input-port 6000 \\
      --source 10.1.1.5 --name feed-a \\
      --outputs '[ff15::1]:6000:eth1/ttl=8,10.100.0.2:6000:wg0/ttl=64/dscp=34'";

fn parse_group(text: &str) -> Result<IpAddr, String> {
    mcr_rules::destination::parse(text).map_err(|error| match mcr_rules::socket_address(text) {
        Some(socket) => format!("write {}, and --input-port {}", socket.ip(), socket.port()),
        None => format!("{error}"),
    })
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// Input interface
    #[arg(long, value_name = "IF", value_parser = parse_interface)]
    pub input_interface: Interface,
    /// Multicast group, unicast address of this host, broadcast address of a network of the interface, or `broadcast` for all of these
    #[arg(long, value_name = "G", value_parser = parse_group)]
    pub input_group: IpAddr,
    /// UDP port
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub input_port: u16,
    /// Source address to accept (source-specific multicast); may be repeated [default: any]
    #[arg(long, value_name = "S")]
    pub source: Vec<IpAddr>,
    /// Take frames for other hosts' MAC addresses too, as from a mirror port; sets the interface promiscuous
    #[arg(long)]
    pub promiscuous: bool,
    /// Take what programs of this host send to the group on the interface, too
    #[arg(long)]
    pub local: bool,
    /// Leave the port of a unicast address to other programs; without one, the kernel refuses the senders
    #[arg(long)]
    pub no_hold_port: bool,
    /// Drop fragments of datagrams, instead of putting them together
    #[arg(long)]
    pub no_reassemble: bool,
    /// Another input with the same feed, in the form of an output; up to 3. With --merge
    #[arg(long, value_name = "G:P:IF", requires = "merge")]
    pub leg: Vec<OutputList>,
    /// Merge the legs: what tells copies from other datagrams
    #[arg(long, value_name = "BY", requires = "leg", value_parser = PossibleValuesParser::new(MergeBy::NAMES).try_map(|name| MergeBy::named(&name).ok_or("unknown")))]
    pub merge: Option<MergeBy>,
    /// How far apart the legs may be, milliseconds, 1 to 2000
    #[arg(long, value_name = "MS", requires = "merge", default_value_t = MergeOptions::DEFAULT_WINDOW_MS)]
    pub window_ms: u16,
    /// When a datagram leaves that is behind a gap: at once, or once the gap is filled or the window is over
    #[arg(long, value_name = "ORDER", requires = "merge", default_value = "arrival", value_parser = PossibleValuesParser::new(MergeOrder::NAMES).try_map(|name| MergeOrder::named(&name).ok_or("unknown")))]
    pub order: MergeOrder,
    /// Name of the rule
    #[arg(long, value_name = "N")]
    pub name: Option<RuleName>,
    /// Maximum number of datagrams per second that each worker of the interface relays; the rest is dropped
    #[arg(long, value_name = "PPS")]
    pub max_pps: Option<NonZeroU32>,
    /// Check the stream in the datagrams: loss, order and jitter of RTP, or the continuity of MPEG-TS
    #[arg(long, alias = "health", value_name = "FORMAT", value_parser = PossibleValuesParser::new(StreamFormat::NAMES).try_map(|name| StreamFormat::named(&name).ok_or("unknown")))]
    pub stream: Option<StreamFormat>,
    /// Outputs, as described below; may be repeated
    #[arg(long, value_name = "G:P:IF", required = true)]
    pub outputs: Vec<OutputList>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// Replace the whole running config: rules that are not in the file are removed
    #[arg(long)]
    pub replace: bool,
    /// Only show what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Restore the previous config after this many seconds unless `mcrctl confirm` is run
    #[arg(long, value_name = "SECONDS", conflicts_with = "dry_run", value_parser = clap::value_parser!(u64).range(1..=MAX_CONFIRM_S))]
    pub confirm: Option<u64>,
    /// Config file; - for stdin
    pub file: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct RemoveArguments {
    /// Rule id, as shown by `list`
    #[arg(long)]
    pub id: Option<RuleId>,
    /// Rule name
    #[arg(long)]
    pub name: Option<RuleName>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Listen {
    /// Time to listen for datagrams and queries, 0 to 10; with 0, only the counters are used
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_listen)]
    pub listen: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceAction {
    /// Start to trace a rule, or restart its trace
    Enable {
        /// Rule id or name, as shown by `list`
        rule: String,
        #[command(flatten)]
        limits: TraceLimits,
    },
    /// Stop a trace and keep its records
    Disable {
        /// Rule id or name, as shown by `list`
        rule: String,
    },
    /// Show the records of a trace
    ///
    /// An arrival is a frame: one datagram, or several merged by GRO. A run is datagrams that were sent together. With
    /// --json, one object; with --follow, one object per record.
    Show {
        /// Rule id or name, as shown by `list`
        rule: String,
        /// Continue until the trace ends
        #[arg(long)]
        follow: bool,
        /// Write a pcapng file instead: the arrivals, with the results as comments; - for stdout
        ///
        /// It has the first 160 bytes of each frame. For a live view: `mcrctl trace show --follow --pcap - RULE | wireshark
        /// -k -i -`.
        #[arg(long, value_name = "FILE")]
        pcap: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TraceLimits {
    /// Trace one of N arrivals, as 1/N or N
    #[arg(long, value_name = "1/N", default_value = "1", value_parser = parse_sample)]
    pub sample: u64,
    /// Record only datagrams that are skipped or dropped
    #[arg(long)]
    pub drops_only: bool,
    /// Stop after this number of records
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TRACE_RECORDS, value_parser = clap::value_parser!(u64).range(1..=MAX_TRACE_RECORDS))]
    pub records: u64,
    /// Stop after this number of seconds
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TRACE_S, value_parser = clap::value_parser!(u64).range(1..=MAX_TRACE_S))]
    pub seconds: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogLevelAction {
    /// Show the current levels
    Get,
    /// Set a level, including in the workers
    Set {
        #[arg(value_parser = PossibleValuesParser::new(Level::NAMES).try_map(|name| name.parse::<Level>()))]
        level: Level,
        /// Facility to set the level of [default: all]
        #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Facility::ALL.map(Facility::name)).try_map(|name| name.parse::<Facility>()))]
        facility: Option<Facility>,
    },
}

fn parse_sample(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("1/").unwrap_or(text);
    number
        .parse()
        .ok()
        .filter(|sample| (1..=MAX_TRACE_SAMPLE).contains(sample))
        .ok_or_else(|| format!("1/N is expected, with N from 1 to {MAX_TRACE_SAMPLE}"))
}

fn parse_listen(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_millis(MAX_LISTEN_MS);
    seconds(text)
        .filter(|time| *time <= longest)
        .ok_or_else(|| format!("a number of seconds from 0 to {} is expected", longest.as_secs()))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let positive = seconds(text).filter(|time| !time.is_zero());
    positive.ok_or_else(|| "a number of seconds above 0 is expected".to_owned())
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

#[cfg(test)]
mod tests;
