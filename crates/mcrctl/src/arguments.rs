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
use mcr_rules::{InterfaceName, Output, RuleId, RuleName, StreamFormat};

use crate::exporter::Address;
use crate::output_list::parse_output;

/// Stands above the options that every command has.
const GLOBAL: &str = "Options of every command";

/// Control a running mcrd: rules, configuration, statistics.
///
/// Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 the request failed, 2 wrong usage, 3 mcrd can't
/// be reached.
#[derive(Debug, Parser)]
#[command(name = "mcrctl", version, about, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Control socket [default: your own daemon's in $XDG_RUNTIME_DIR/mcr if it is there, else /run/mcr/mcrd.sock]
    #[arg(long, global = true, value_name = "PATH", overrides_with = "socket", help_heading = GLOBAL)]
    pub socket: Option<PathBuf>,
    /// Write JSON instead of tables
    #[arg(long, global = true, overrides_with = "json", help_heading = GLOBAL)]
    pub json: bool,
    /// How long to wait for mcrd
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
    /// Take a rule out of the running config
    Remove(RemoveArguments),
    /// Show the rules and whether they work
    List,
    /// Write the running config as JSON5, which `load` takes
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
    /// Change the running config to a file's, all or nothing
    ///
    /// The change is in force when the command ends; if a worker does not acknowledge it within 5 seconds, everything
    /// returns to the state before. A rule whose interface is missing or down waits for it, and is no failure. Without --replace, the file's rules are added, those with the same input take the place of the running ones, the
    /// pinning of the interfaces it names is set, and everything else stays, settings too. Rules that do not change lose
    /// no datagram and keep their counters.
    Load {
        /// Make the running config exactly the file's: rules that are not in it go
        #[arg(long)]
        replace: bool,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
        /// Return to the config before after so many seconds, unless `mcrctl confirm` comes
        #[arg(long, value_name = "SECONDS", conflicts_with = "dry_run", value_parser = clap::value_parser!(u64).range(1..=MAX_CONFIRM_S))]
        confirm: Option<u64>,
        /// Config file; - for stdin
        file: PathBuf,
    },
    /// Keep what `load --confirm` changed
    ///
    /// Until then nothing else changes: add, remove, load, save and the reload by signal are refused.
    Confirm {
        /// Return to the config before the load at once instead
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
        /// Again each second, with rates over 1 s and 10 s, until interrupted; with --json one object per line
        #[arg(long)]
        watch: bool,
    },
    /// Show who sends to the rules
    ///
    /// One line for each source address and port: its datagrams, rates, and when the first and the last came. A flow without
    /// a datagram for `settings.flow_silence_s` (10 seconds) is silent.
    Flows {
        /// Id or name of a rule, as `list` shows them [default: all]
        #[arg(value_name = "RULE")]
        rule: Option<String>,
    },
    /// Say why a rule relays or does not: where its datagrams are, where they stop, and what to do
    ///
    /// For some seconds it is looked at what arrives for the rule's group on any interface, port and VLAN, and at who asks
    /// for memberships. TROUBLESHOOTING explains each finding by its id.
    Explain {
        /// Id or name, as `list` shows them
        #[arg(value_name = "RULE")]
        rule: String,
        #[command(flatten)]
        listen: Listen,
    },
    /// Examine all rules and the host
    ///
    /// Rules that are well are summed up; the others are explained.
    Doctor {
        #[command(flatten)]
        listen: Listen,
    },
    /// Show everything that happens, live, on the whole terminal
    ///
    /// Rules with rates and trends, outputs, drops by reason, workers with the load of their cores, interfaces, groups
    /// joined, and what has changed since. `?` shows the keys, `q` leaves. Without a terminal, `stats --watch` shows the
    /// counters. NO_COLOR=1 draws without colours, a locale without UTF-8 in plain ASCII.
    Top,
    /// Write what happens as lines of JSON, until interrupted
    ///
    /// Rules and outputs that become active or pending, datagrams that begin to come or cease, workers, links and
    /// memberships that come and go.
    Events {
        /// Lines for people instead
        #[arg(long)]
        text: bool,
    },
    /// Write down what becomes of single datagrams of a rule, and show it
    ///
    /// Each arrival, whether the rule takes it, and what came of it on each output. Other rules do not notice; the traced one
    /// takes somewhat more of a core. A trace ends by itself.
    Trace {
        #[command(subcommand)]
        action: TraceAction,
    },
    /// Serve the counters to Prometheus and the like, over HTTP, until ended
    ///
    /// Needs no right but to read; an exporter that stalls or dies disturbs nothing. GET /metrics answers in the format of
    /// OpenMetrics to those who accept it, else in that of Prometheus.
    Exporter {
        /// Where to listen: ADDRESS:PORT, or unix:PATH
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9478")]
        listen: Address,
    },
    /// Show the worker processes
    Workers,
    /// Show the groups joined for the rules
    Memberships,
    /// Show the host's interfaces as mcrd sees them
    Interfaces,
    /// Show or set log levels
    LogLevel {
        #[command(subcommand)]
        action: LogLevelAction,
    },
    /// Let another binary take mcrd's place, without losing a datagram
    ///
    /// It is started with mcrd's options, takes workers, sockets and groups over, and goes on with the running config. If it
    /// does not manage within seconds, mcrd goes on as before. Workers of the old binary are then replaced, one at a time.
    Upgrade {
        /// Program to start [default: mcrd's own file, as it is on disk now]
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Ask whether mcrd's main loop is alive
    Ping,
    /// Show the versions of mcrctl and mcrd
    Version,
    /// Write a script that lets a shell complete mcrctl's command line
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

const COMPLETIONS_HELP: &str = "\
Packages bring these scripts along. By hand:
  mcrctl completions bash > ~/.local/share/bash-completion/completions/mcrctl
  mcrctl completions zsh > ~/.zfunc/_mcrctl              # a directory of $fpath
  mcrctl completions fish > ~/.config/fish/completions/mcrctl.fish";

const OUTPUTS_HELP: &str = "\
Outputs:
  GROUP:PORT:INTERFACE, an IPv6 address in brackets. Options follow after slashes:
    ttl=N|decrement    1 to 255, or the arriving one less 1 [default: 16]
    dscp=N|keep        0 to 63, or the arriving one [default: 0]
    source=ADDRESS     send from this address [default: the interface's]
  Several are separated by commas, or --outputs is given again.

Examples:
  mcrctl add --input-interface eth0 --input-group 239.1.1.1 --input-port 5000 \\
      --outputs 239.2.2.2:5001:eth1
  mcrctl add --input-interface eth0 --input-group 232.1.1.1 --input-port 6000 \\
      --source 10.1.1.5 --name feed-a \\
      --outputs '[ff15::1]:6000:eth1/ttl=8,10.100.0.2:6000:wg0/ttl=64/dscp=34'";

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// Interface where the datagrams arrive
    #[arg(long, value_name = "IF")]
    pub input_interface: InterfaceName,
    /// Multicast group, or a unicast address of this host
    #[arg(long, value_name = "G")]
    pub input_group: IpAddr,
    /// UDP port
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub input_port: u16,
    /// Only from this sender; may be given again
    #[arg(long, value_name = "S")]
    pub source: Vec<IpAddr>,
    /// Name of the rule
    #[arg(long, value_name = "N")]
    pub name: Option<RuleName>,
    /// Relay at most so many datagrams per second (in each worker of the interface), and drop the rest
    #[arg(long, value_name = "PPS")]
    pub max_pps: Option<NonZeroU32>,
    /// Check the stream that the datagrams carry: gaps, order and jitter of RTP, or the continuity of MPEG-TS
    #[arg(long, alias = "health", value_name = "FORMAT", value_parser = PossibleValuesParser::new(StreamFormat::ALL.map(StreamFormat::as_str)).try_map(|name| name.parse::<StreamFormat>()))]
    pub stream: Option<StreamFormat>,
    /// Where to send, see below; may be given again
    #[arg(long, value_name = "G:P:IF", required = true, value_delimiter = ',', value_parser = parse_output)]
    pub outputs: Vec<Output>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct RemoveArguments {
    /// Id, as `list` shows it
    #[arg(long)]
    pub id: Option<RuleId>,
    /// Name
    #[arg(long)]
    pub name: Option<RuleName>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Listen {
    /// How long to look at what arrives, 0 to 10; 0: only at what was counted since the start
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_listen)]
    pub listen: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceAction {
    /// Begin to trace a rule, or begin anew
    Enable {
        /// Id or name, as `list` shows them
        #[arg(value_name = "RULE")]
        rule: String,
        #[command(flatten)]
        limits: TraceLimits,
    },
    /// End a trace; what was written down stays
    Disable {
        /// Id or name, as `list` shows them
        #[arg(value_name = "RULE")]
        rule: String,
    },
    /// Show what was written down
    ///
    /// An arrival is a frame: a datagram, or several that were merged before they came here. A run is what was sent
    /// together. With --json, one object; with --follow one per record.
    Show {
        /// Id or name, as `list` shows them
        #[arg(value_name = "RULE")]
        rule: String,
        /// Go on until the trace ends
        #[arg(long)]
        follow: bool,
        /// Write a capture file (pcapng) instead: arrivals, with what became of them as comments; - for stdout
        ///
        /// Of each frame it has the first 160 bytes. `mcrctl trace show --follow --pcap - RULE | wireshark -k -i -` shows
        /// them live.
        #[arg(long, value_name = "FILE")]
        pcap: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TraceLimits {
    /// Trace one of N arrivals, as 1/N or N
    #[arg(long, value_name = "1/N", default_value = "1", value_parser = parse_sample)]
    pub sample: u64,
    /// Only what is skipped or dropped
    #[arg(long)]
    pub drops_only: bool,
    /// End after so many records
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TRACE_RECORDS, value_parser = clap::value_parser!(u64).range(1..=MAX_TRACE_RECORDS))]
    pub records: u64,
    /// End after so many seconds
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TRACE_S, value_parser = clap::value_parser!(u64).range(1..=MAX_TRACE_S))]
    pub seconds: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogLevelAction {
    /// Show the levels in force
    Get,
    /// Set a level, in the workers too
    Set {
        #[arg(value_parser = PossibleValuesParser::new(Level::ALL.map(Level::name)).try_map(|name| name.parse::<Level>()))]
        level: Level,
        /// Only of this facility [default: all]
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
    text.parse()
        .ok()
        .and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| *time <= longest)
        .ok_or_else(|| format!("a number of seconds from 0 to {} is expected", longest.as_secs()))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a number of seconds above 0 is expected".to_owned())
}

#[cfg(test)]
mod tests;
