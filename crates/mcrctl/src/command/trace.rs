//! `trace enable`, `disable`, `show`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use mcr_control::method::parameter::Ranged;
use mcr_control::method::{DisableTrace, EnableTrace, GetTrace};
use mcr_control::trace::{TraceReply, TraceState};

use super::explain::select;
use super::{Daemon, Outcome};
use crate::arguments::{TraceAction, TraceLimits};
use crate::failure::CommandFailure;
use crate::hangup::exit_with_reader;
use crate::pcapng::{CaptureFile, LinkType};
use crate::screen::{Reader, Screen};
use crate::trace::lines::{Lines, summary};
use crate::trace::packets::Packets;

/// Interval between two requests for more records.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn run(daemon: &Daemon, screen: &Screen, action: TraceAction) -> Outcome {
    match action {
        TraceAction::Enable { rule, limits } => enable(daemon, screen, &rule, &limits),
        TraceAction::Disable { rule } => {
            let disable = DisableTrace { rule: select(&rule)? };
            daemon.show(screen, &disable, |reply| format!("rule {} is no longer traced\n", reply.id))
        }
        TraceAction::Show { rule, follow, pcap } => show(daemon, screen, &rule, follow, pcap.as_deref()),
    }
}

fn enable(daemon: &Daemon, screen: &Screen, rule: &str, limits: &TraceLimits) -> Outcome {
    let enable = EnableTrace {
        rule: select(rule)?,
        sample: Some(Ranged::clamp(limits.sample)),
        drops_only: Some(limits.drops_only),
        max_records: Some(Ranged::clamp(limits.records)),
        max_seconds: Some(Ranged::clamp(limits.seconds)),
    };
    daemon.show(screen, &enable, |reply| {
        format!(
            "tracing rule {} for {} s or {} records; `mcrctl trace show {rule}` shows them\n",
            reply.id, limits.seconds, limits.records
        )
    })
}

/// Destination of records.
enum Sink<'a> {
    Lines(&'a Screen, Lines),
    /// A JSON object per line.
    Json(&'a Screen),
    /// One JSON object at the end.
    Whole(&'a Screen, Box<TraceReply>),
    Packets {
        file: CaptureFile<Box<dyn Write>>,
        packets: Packets,
        name: &'a Path,
    },
}

impl<'a> Sink<'a> {
    fn open(
        screen: &'a Screen,
        reply: &TraceReply,
        follow: bool,
        pcap: Option<&'a Path>,
    ) -> Result<Self, CommandFailure> {
        let Some(path) = pcap else {
            return Ok(match (screen.json, follow) {
                (true, true) => Self::Json(screen),
                (true, false) => Self::Whole(screen, Box::default()),
                (false, _) => Self::Lines(screen, Lines::new()),
            });
        };
        let out: Box<dyn Write> = if path == Path::new("-") {
            Box::new(BufWriter::new(io::stdout()))
        } else {
            let file = File::create(path).map_err(|error| CommandFailure::file("write", path, &error))?;
            Box::new(BufWriter::new(file))
        };
        let link = if reply.headerless { LinkType::Raw } else { LinkType::Ethernet };
        let interface = reply.interface.as_ref().map(ToString::to_string).unwrap_or_default();
        let file = CaptureFile::begin(out, link, &interface)
            .map_err(|error| CommandFailure::file("write", path, &error))?;
        Ok(Self::Packets { file, packets: Packets::default(), name: path })
    }

    /// Shows the records of a reply. `last` is set for the final reply.
    fn take(&mut self, reply: &TraceReply, last: bool) -> Result<Reader, CommandFailure> {
        match self {
            Self::Lines(screen, lines) => screen.write(&lines.next(&reply.records)),
            Self::Json(screen) => {
                for record in &reply.records {
                    if screen.show_json_line(record)? == Reader::Gone {
                        return Ok(Reader::Gone);
                    }
                }
                Ok(Reader::Present)
            }
            Self::Whole(screen, whole) => {
                let mut records = std::mem::take(&mut whole.records);
                records.extend(reply.records.iter().cloned());
                **whole = TraceReply { records, lost: whole.lost + reply.lost, ..reply.clone() };
                if last {
                    screen.show(whole, String::new)?;
                }
                Ok(Reader::Present)
            }
            Self::Packets { file, packets, name } => {
                let mut out = packets.next(&reply.records);
                if last {
                    out.extend(packets.finish());
                }
                let written =
                    out.iter().try_for_each(|packet| file.packet(packet)).and_then(|()| file.flush());
                match written {
                    Ok(()) => Ok(Reader::Present),
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
                    Err(error) => Err(CommandFailure::file("write", name, &error)),
                }
            }
        }
    }
}

fn show(daemon: &Daemon, screen: &Screen, rule: &str, follow: bool, pcap: Option<&Path>) -> Outcome {
    let selected = select(rule)?;
    let mut client = daemon.connect()?;
    let mut reply = client.call(&GetTrace { rule: selected.clone(), after: None })?;
    if reply.state == TraceState::Off {
        return Err(CommandFailure::new(format_args!("rule {rule} has no trace"))
            .hint(format!("`mcrctl trace enable {rule}` starts one")));
    }
    if pcap.is_some()
        && reply.records.iter().any(|record| record.frame_bytes > 0 && record.bytes > 0)
        && reply.records.iter().all(|record| record.frame.is_none())
    {
        screen.say("notice: this user may not read the contents of datagrams; the capture file is empty");
    }
    if follow && pcap.is_none_or(|path| path == Path::new("-")) {
        exit_with_reader().map_err(CommandFailure::new)?;
    }
    let mut sink = Sink::open(screen, &reply, follow, pcap)?;
    let mut lost = 0;
    loop {
        lost += reply.lost;
        let goes_on = reply.more || follow && reply.state == TraceState::Running;
        if sink.take(&reply, !goes_on)? == Reader::Gone {
            return Ok(());
        }
        if !goes_on {
            screen.say(summary(&reply, lost));
            return Ok(());
        }
        if !reply.more {
            pause();
        }
        reply = client.call(&GetTrace { rule: selected.clone(), after: reply.next.parse().ok() })?;
    }
}

#[expect(clippy::disallowed_methods, reason = "the program asks again after a while")]
fn pause() {
    std::thread::sleep(FOLLOW_INTERVAL);
}
