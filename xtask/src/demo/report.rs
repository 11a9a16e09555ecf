//! The report of the demo.

use std::fmt;
use std::io::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use super::streams::Stream;

const HEADINGS: [&str; 10] = [
    "stream",
    "sent to",
    "arrived at",
    "sent",
    "received",
    "lost",
    "duplicates",
    "p50 µs",
    "p99 µs",
    "max µs",
];
/// The columns before this one are left-aligned text, the others right-aligned numbers.
const FIRST_NUMBER: usize = 3;

/// One stream at one of its outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    stream: String,
    from: String,
    to: String,
    sent: u64,
    received: u64,
    duplicates: u64,
    corrupted: u64,
    latency_ns: Option<[u64; 3]>,
}

impl Row {
    /// From the reports of `mcrgen send` and `mcrgen recv`. Without a report, nothing was received.
    pub(crate) fn new(stream: &Stream, output: (&str, &str), sent: &Value, received: &Value) -> Self {
        let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
        let latency = received.get("latency_ns").filter(|latency| latency.is_object());
        Self {
            stream: stream.name.to_owned(),
            from: endpoint((stream.input, stream.input_port)),
            to: endpoint(output),
            sent: number(sent, "sent"),
            received: number(received, "received"),
            duplicates: number(received, "duplicates"),
            corrupted: number(received, "corrupted"),
            latency_ns: latency.map(|latency| ["p50", "p99", "max"].map(|name| number(latency, name))),
        }
    }

    fn lost(&self) -> u64 {
        // mcrgen counts each datagram once in `received`, and copies in `duplicates`.
        self.sent.saturating_sub(self.received)
    }

    fn cells(&self) -> [String; HEADINGS.len()] {
        let latency = |index: usize| {
            self.latency_ns.map_or_else(|| "-".to_owned(), |latency| (latency[index] / 1000).to_string())
        };
        [
            self.stream.clone(),
            self.from.clone(),
            self.to.clone(),
            self.sent.to_string(),
            self.received.to_string(),
            self.lost().to_string(),
            self.duplicates.to_string(),
            latency(0),
            latency(1),
            latency(2),
        ]
    }
}

fn endpoint((address, port): (&str, &str)) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// All streams together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    sent: u64,
    lost: u64,
    duplicates: u64,
    corrupted: u64,
}

impl Totals {
    pub(crate) fn of(rows: &[Row]) -> Self {
        let sum = |count: fn(&Row) -> u64| rows.iter().map(count).sum();
        Self {
            sent: sum(|row| row.sent),
            lost: sum(Row::lost),
            duplicates: sum(|row| row.duplicates),
            corrupted: sum(|row| row.corrupted),
        }
    }

    /// Datagrams were sent, and each was received once, intact.
    pub(crate) fn is_clean(self) -> bool {
        self.sent > 0 && self.lost == 0 && self.duplicates == 0 && self.corrupted == 0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, lost, duplicates, corrupted } = self;
        write!(
            formatter,
            "of {sent} datagrams {lost} were lost, {duplicates} duplicated, {corrupted} corrupted"
        )
    }
}

/// Prints the table and a line for each worker to stdout.
pub(crate) fn print(rows: &[Row], workers: &Value) -> Result<()> {
    let mut text = table(rows);
    for worker in workers["workers"].as_array().into_iter().flatten() {
        text.push('\n');
        text.push_str(&worker_line(worker));
    }
    writeln!(std::io::stdout(), "{text}").context("print the report")
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let widths: [usize; HEADINGS.len()] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::from("\n");
    for line in lines {
        let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column < FIRST_NUMBER { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn worker_line(worker: &Value) -> String {
    let word = |name: &str| match worker.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "?".to_owned(),
    };
    let mut line = format!(
        "worker of {}: {}, core {}, uid {}",
        word("interface"),
        word("io"),
        word("core"),
        word("uid")
    );
    for note in worker["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        line.push_str("\n  note: ");
        line.push_str(note);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const STREAM: Stream = Stream { name: "s", input: "239.1.1.1", input_port: "5000", outputs: &[] };

    fn row(received: &Value) -> Row {
        Row::new(&STREAM, ("ff15::3", "5004"), &json!({"sent": 100}), received)
    }

    #[test]
    fn loss_duplicates_and_corruption_are_not_clean() {
        let all = json!({"received": 100, "duplicates": 0, "corrupted": 0});
        assert!(Totals::of(&[row(&all)]).is_clean());
        for bad in [
            json!({"received": 99, "duplicates": 0, "corrupted": 0}),
            json!({"received": 100, "duplicates": 1, "corrupted": 0}),
            json!({"received": 100, "duplicates": 0, "corrupted": 1}),
            json!({"received": 99, "duplicates": 1, "corrupted": 0}),
            Value::Null,
        ] {
            assert!(!Totals::of(&[row(&all), row(&bad)]).is_clean(), "{bad}");
        }
        assert!(!Totals::of(&[]).is_clean());
    }

    #[test]
    fn columns_are_aligned() {
        let latency = json!({"min": 1000, "p50": 20_500, "p99": 300_000, "p999": 1, "max": 4_000_000});
        let rows = [row(&json!({"received": 100, "latency_ns": latency})), row(&Value::Null)];
        let text = table(&rows);
        let lines: Vec<_> = text.trim_start().lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("s       239.1.1.1:5000  [ff15::3]:5004"), "{text}");
        assert!(lines[1].ends_with("    20     300    4000"), "{text}");
        assert!(lines[2].ends_with("     -       -       -"), "{text}");
    }

    #[test]
    fn a_worker_line_has_its_notes() {
        let worker = json!({"interface": "eth0", "io": "io_uring", "core": 1, "uid": 0, "notes": ["the user stays 0"]});
        assert_eq!(worker_line(&worker), "worker of eth0: io_uring, core 1, uid 0\n  note: the user stays 0");
    }
}
