//! The command line: one definition per flag.

use crate::groups::MAX_GROUPS;
use crate::legs::{Leg, MAX_OTHER_LEGS, milliseconds, percent};
use crate::sizes::SizeRange;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// Generate multicast or unicast test traffic, and verify it at the receiver.
#[derive(Debug, Parser)]
#[command(name = "mcrgen", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Send(SendArguments),
    Recv(RecvArguments),
    Replay(ReplayArguments),
}

/// The addresses of the streams.
#[derive(Debug, Args)]
pub(crate) struct StreamArguments {
    /// Interface to use
    #[arg(long, value_name = "IF")]
    pub(crate) interface: String,
    /// Address of the first stream: a multicast group, or a unicast address
    #[arg(long, value_name = "G")]
    pub(crate) group: IpAddr,
    /// UDP port of all streams
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Number of streams, sent to consecutive addresses starting at G
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_GROUPS)))]
    pub(crate) groups: u16,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Send numbered, checksummed datagrams at a constant rate.
///
/// Without --count or --duration it sends until it is interrupted. Rate and count are totals over all streams, which are
/// sent round robin.
#[derive(Debug, Args)]
pub(crate) struct SendArguments {
    #[command(flatten)]
    pub(crate) streams: StreamArguments,
    /// Datagrams per second; 0 sends as fast as possible
    #[arg(long, value_name = "PPS", default_value_t = 1000)]
    pub(crate) rate: u64,
    /// Payload size in bytes, at least 48 (60 with --rtp, 70 with --mold); MIN-MAX selects a random size for each datagram
    #[arg(long, value_name = "BYTES", default_value = "1400")]
    pub(crate) size: SizeRange,
    /// Seed of the random sizes, losses and reordering [default: a random one]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Number of datagrams to send
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) count: Option<NonZeroU64>,
    /// Duration of sending; a run that falls behind its rate may take 10 % longer
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// Send the datagrams in bursts of N, at the same mean rate
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) burst: NonZeroU64,
    /// TTL, or hop limit
    #[arg(long, value_name = "T", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) ttl: u8,
    /// DSCP value
    #[arg(long, value_name = "D", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..64))]
    pub(crate) dscp: u8,
    /// Begin each payload with an RTP header (RFC 3550) of 12 bytes
    #[arg(long, conflicts_with = "mold")]
    pub(crate) rtp: bool,
    /// Begin each payload with a MoldUDP64 header and the length of its only message, 22 bytes
    #[arg(long)]
    pub(crate) mold: bool,
    /// Leave out this percentage of the datagrams, at random
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "0")]
    pub(crate) loss: f64,
    /// Send each datagram this much later
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0")]
    pub(crate) delay: Duration,
    /// Send this percentage of the datagrams behind the next one of their stream, at random
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "0")]
    pub(crate) reorder: f64,
    /// Send each datagram on these legs as well, up to three, separated by commas: G:P:IF, then any of /loss=PERCENT, /delay=MS, /reorder=PERCENT; --loss, --delay and --reorder are of the first leg
    #[arg(long, value_name = "G:P:IF", value_delimiter = ',', num_args = 1..=MAX_OTHER_LEGS, action = clap::ArgAction::Set)]
    pub(crate) legs: Vec<Leg>,
    /// Source address [default: the interface's]
    #[arg(long, value_name = "S")]
    pub(crate) source: Option<IpAddr>,
    /// Source port [default: any]
    #[arg(long, value_name = "P")]
    pub(crate) source_port: Option<u16>,
    /// Pass several datagrams to the kernel in one send (UDP_SEGMENT)
    #[arg(long, value_enum, default_value_t = Segmentation::Auto)]
    pub(crate) segment: Segmentation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Segmentation {
    /// With --rate 0
    Auto,
    /// Also at a rate: each burst is one send
    Always,
    /// One datagram per send
    Never,
}

/// Receive the traffic of `mcrgen send`, and report loss, duplicates, order and latency.
///
/// Prints "ready" on stderr once it has joined its groups. Exits when --count, --duration or --idle is reached, or when
/// every stream has delivered all datagrams that its sender announced. Exit code 1 means that more than --max-loss
/// datagrams were lost.
#[derive(Debug, Args)]
pub(crate) struct RecvArguments {
    #[command(flatten)]
    pub(crate) streams: StreamArguments,
    /// Source address to join and accept (source-specific multicast); may be repeated [default: any]
    #[arg(long, value_name = "S")]
    pub(crate) source: Vec<IpAddr>,
    /// Number of datagrams to wait for; if the run ends earlier, the missing ones are counted as lost
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) count: Option<NonZeroU64>,
    /// Duration of receiving
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// Exit after this time without a datagram; 0: never
    #[arg(long, value_name = "SECS", value_parser = seconds, default_value = "3")]
    pub(crate) idle: Duration,
    /// Time to wait for the first datagram; 0: forever
    #[arg(long, value_name = "SECS", value_parser = seconds, default_value = "10")]
    pub(crate) wait: Duration,
    /// Exit with code 1 if more than N datagrams were lost, or none was received
    #[arg(long, value_name = "N")]
    pub(crate) max_loss: Option<u64>,
    /// Count loss from the first datagram received instead of the first one sent
    #[arg(long)]
    pub(crate) late: bool,
    /// Receive these legs as well, up to three, separated by commas; reports each leg, and what is left after a merge
    #[arg(long, value_name = "G:P:IF", value_delimiter = ',', num_args = 1..=MAX_OTHER_LEGS, action = clap::ArgAction::Set)]
    pub(crate) legs: Vec<Leg>,
    /// Report each stream separately; implied by --groups above 1
    #[arg(long)]
    pub(crate) per_stream: bool,
}

/// Send the UDP datagrams of a capture file, at the times at which they were captured.
///
/// Reads pcap and pcapng. Truncated packets, fragments and what is not UDP are passed over, and counted.
#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// Capture file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Interface to send on
    #[arg(long, value_name = "IF")]
    pub(crate) interface: String,
    /// Send only the datagrams to this destination; may be repeated [default: all to multicast groups]
    #[arg(long, value_name = "G:P")]
    pub(crate) only: Vec<SocketAddr>,
    /// Send to this destination [default: the captured one]
    #[arg(long, value_name = "G:P")]
    pub(crate) to: Option<SocketAddr>,
    /// Speed, as a factor; 0 sends as fast as possible
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    pub(crate) speed: f64,
    /// Number of times that the file is sent; 0: until interrupted
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) repeat: u64,
    /// TTL, or hop limit
    #[arg(long, value_name = "T", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) ttl: u8,
    /// DSCP value
    #[arg(long, value_name = "D", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..64))]
    pub(crate) dscp: u8,
    /// Source port [default: any]
    #[arg(long, value_name = "P")]
    pub(crate) source_port: Option<u16>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ReplayArguments {
    /// Whether datagrams to this destination are sent.
    pub(crate) fn wants(&self, destination: &SocketAddr) -> bool {
        if self.only.is_empty() { destination.ip().is_multicast() } else { self.only.contains(destination) }
    }

    /// A time of the file at the wanted speed.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a capture of 100 days has microseconds left"
    )]
    pub(crate) fn scaled(&self, ns: u64) -> u64 {
        if self.speed == 1.0 {
            ns
        } else if self.speed > 0.0 {
            (ns as f64 / self.speed) as u64
        } else {
            0
        }
    }
}

fn speed(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if factor == 0.0 || (0.001..=1e6).contains(&factor) {
        Ok(factor)
    } else {
        Err(format!("{text} is neither 0 nor from 0.001 to 1000000"))
    }
}

/// A duration in seconds, with or without a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn definition_is_valid() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_usage_exits_with_code_2() {
        let target = "--interface eth0 --group 239.1.1.1 --port 5000";
        for line in [
            "mcrgen",
            "mcrgen send",
            &format!("mcrgen send {target} --size 10"),
            &format!("mcrgen send {target} --count 0"),
            &format!("mcrgen send {target} --count 1 --duration 1"),
            &format!("mcrgen send {target} --ttl 0"),
            &format!("mcrgen send {target} --groups 0"),
            &format!("mcrgen recv {target} --idle -1"),
            &format!("mcrgen recv {target} --duration 1e99"),
            "mcrgen replay --interface eth0",
            "mcrgen replay a.pcap",
            "mcrgen replay a.pcap --interface eth0 --speed -1",
            "mcrgen replay a.pcap --interface eth0 --to 239.1.1.1",
            "mcrgen recv --interface eth0 --group 239.1.1 --port 5000",
            "mcrgen recv --interface eth0 --group 239.1.1.1 --port 0",
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line} was accepted"));
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }

    #[test]
    fn sources_repeat_and_seconds_have_fractions() {
        let line = "mcrgen recv --interface eth0 --group ff3e::1 --port 5000 --source fd01::1 --source fd01::2 --duration 0.25";
        let Command::Recv(recv) = parse(line).unwrap().command else { panic!("recv") };
        assert_eq!(recv.source.len(), 2);
        assert_eq!(recv.duration, Some(Duration::from_millis(250)));
    }
}
