//! Trace records as a table that can be appended to.

use std::fmt::Write;

use mcr_control::trace::{TraceRecord, TraceReply, TraceState, TraceWhat};

use crate::failure::printable;
use crate::format::{self, grouped};

const TITLES: [&str; 9] =
    ["TIME", "CORE", "ARRIVAL", "RUN", "WHAT", "DATAGRAMS", "BYTES", "SOURCE", "DETAIL"];
/// Columns that are aligned to the right.
const NUMBERS: [usize; 5] = [1, 2, 3, 5, 6];
const NANOSECONDS: u64 = 1_000_000_000;

/// The columns, as wide as their widest cell so far.
pub(crate) struct Lines {
    widths: [usize; TITLES.len()],
    begun: bool,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self { widths: TITLES.map(str::len), begun: false }
    }

    /// Returns the lines of the next records; the first time, with the header.
    pub(crate) fn next(&mut self, records: &[TraceRecord]) -> String {
        let rows: Vec<[String; TITLES.len()]> = records.iter().map(row).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let titles = (!std::mem::replace(&mut self.begun, true)).then(|| TITLES.map(str::to_owned));
        titles.iter().chain(&rows).map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(self.widths).enumerate() {
            // Writing to a string does not fail.
            let _ = if NUMBERS.contains(&column) {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

fn row(record: &TraceRecord) -> [String; TITLES.len()] {
    let run = if record.run == 0 { String::new() } else { record.run.to_string() };
    [
        time_of_day(record.at_ns),
        record.core.to_string(),
        record.arrival.to_string(),
        run,
        record.what.name().to_owned(),
        record.datagrams.to_string(),
        record.bytes.to_string(),
        record.source.map(|source| source.to_string()).unwrap_or_default(),
        printable(&detail(record)),
    ]
}

/// Returns the details of a record beside the numbers.
pub(crate) fn detail(record: &TraceRecord) -> String {
    let output = || record.output.as_ref().map_or_else(|| "a removed output".to_owned(), ToString::to_string);
    let reason = record.reason.as_deref().unwrap_or_default();
    match record.what {
        TraceWhat::Received => {
            let to = record.destination.map(|to| format!("to {to}, ")).unwrap_or_default();
            format!("{to}ttl {}", record.ttl)
        }
        TraceWhat::Matched => String::new(),
        TraceWhat::Skipped => reason.to_owned(),
        TraceWhat::Sent => output(),
        TraceWhat::Dropped => {
            let error = record.error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
            format!("{}: {reason}{error}", output())
        }
    }
}

/// Returns a record as a short line.
pub(crate) fn short_line(record: &TraceRecord) -> String {
    let mut line = format!("{} #{} {:<8}", time_of_day(record.at_ns), record.arrival, record.what.name());
    let _ = match record.datagrams {
        0 | 1 => write!(line, " {} B", record.bytes),
        many => write!(line, " {many} datagrams, {} B", record.bytes),
    };
    if let (TraceWhat::Received, Some(source)) = (record.what, record.source) {
        let _ = write!(line, " from {source}");
    }
    let _ = write!(line, " {}", detail(record));
    line.truncate(line.trim_end().len());
    line
}

/// The time of day of nanoseconds since 1970, UTC.
fn time_of_day(at_ns: u64) -> String {
    format!("{}.{:06}", format::time_of_day(at_ns / NANOSECONDS), at_ns % NANOSECONDS / 1000)
}

/// Returns the summary that follows the records.
pub(crate) fn summary(reply: &TraceReply, lost: u64) -> String {
    let sampled =
        if reply.sample > 1 { format!(", of which 1 in {} is traced", reply.sample) } else { String::new() };
    let mut text =
        format!("{} arrivals{sampled}; {} records", grouped(reply.arrivals), grouped(reply.written));
    for (count, what) in
        [(lost, "were overwritten before they were read"), (reply.untold, "sends without a recorded result")]
    {
        if count > 0 {
            let _ = write!(text, "; {} {what}", grouped(count));
        }
    }
    match (reply.state, reply.ended.as_deref()) {
        (TraceState::Running, _) => text.push_str("; the trace is running"),
        (_, Some(ended)) => {
            let _ = write!(text, "; the trace has ended: {ended}");
        }
        _ => {}
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use mcr_control::trace::TraceOutput;

    use super::*;

    pub(in crate::trace) fn record(at_ns: u64, arrival: u64, run: u64, what: TraceWhat) -> TraceRecord {
        TraceRecord {
            at_ns: 1_700_000_000 * NANOSECONDS + at_ns,
            core: 2,
            arrival,
            run,
            what,
            reason: None,
            errno: None,
            error: None,
            output: None,
            datagrams: 1,
            bytes: 1400,
            segment_bytes: 1400,
            source: Some("10.1.0.1:40000".parse().unwrap()),
            destination: Some("239.1.1.1:5000".parse().unwrap()),
            ttl: 16,
            dscp: 0,
            frame_bytes: 1442,
            frame: None,
        }
    }

    pub(in crate::trace) fn output(interface: &str) -> Option<TraceOutput> {
        Some(TraceOutput {
            interface: interface.parse().unwrap(),
            group: "239.2.2.2".parse().unwrap(),
            port: 6001,
        })
    }

    #[test]
    fn records_as_a_table() {
        let sent = TraceRecord { output: output("eth1"), ..record(1_000, 17, 3, TraceWhat::Sent) };
        let dropped = TraceRecord {
            output: output("eth2"),
            reason: Some("unreachable".into()),
            error: Some("Network is unreachable (os error 101)".into()),
            errno: Some(101),
            ..record(2_000, 17, 3, TraceWhat::Dropped)
        };
        let mut lines = Lines::new();
        let records =
            [record(0, 17, 0, TraceWhat::Received), record(0, 17, 3, TraceWhat::Matched), sent, dropped];
        assert_eq!(
            lines.next(&records),
            "\
TIME             CORE  ARRIVAL  RUN  WHAT      DATAGRAMS  BYTES  SOURCE          DETAIL
22:13:20.000000     2       17       received          1   1400  10.1.0.1:40000  to 239.1.1.1:5000, ttl 16
22:13:20.000000     2       17    3  matched           1   1400  10.1.0.1:40000
22:13:20.000001     2       17    3  sent              1   1400  10.1.0.1:40000  eth1 239.2.2.2:6001
22:13:20.000002     2       17    3  dropped           1   1400  10.1.0.1:40000  eth2 239.2.2.2:6001: unreachable (Network is unreachable (os error 101))
"
        );
        let skipped =
            TraceRecord { reason: Some("own_source".into()), ..record(0, 18, 0, TraceWhat::Skipped) };
        assert!(lines.next(&[skipped]).ends_with("10.1.0.1:40000  own_source\n"));
    }

    #[test]
    fn the_summary_names_missing_records() {
        let reply = TraceReply {
            state: TraceState::Ended,
            ended: Some("limit of records reached".into()),
            sample: 10,
            arrivals: 12_000,
            written: 1_000,
            untold: 2,
            ..TraceReply::default()
        };
        assert_eq!(
            summary(&reply, 7),
            "12,000 arrivals, of which 1 in 10 is traced; 1,000 records; 7 were overwritten before they were read; \
             2 sends without a recorded result; the trace has ended: limit of records reached"
        );
    }
}
