//! What was measured, as tables for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::chart;
use crate::measurement::Sample;
use crate::options::Options;
use crate::peers::Peer;
use crate::scenarios::Scenario;
use crate::targets;

/// All runs of one peer in one scenario.
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
    pub(crate) peer: Peer,
    samples: Vec<Sample>,
}

impl Row {
    /// Median, least and greatest of a quantity.
    pub(crate) fn spread(&self, name: &str) -> Option<(f64, f64, f64)> {
        let mut values: Vec<f64> =
            self.samples.iter().filter_map(|sample| sample.get(name).copied()).collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some((median, least, greatest))
    }

    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.spread(name).map(|(median, ..)| median)
    }
}

/// Everything about a run of the benchmark.
pub(crate) struct Results {
    conditions: BTreeMap<&'static str, String>,
    skipped: Vec<(Peer, String)>,
    failed: Vec<String>,
    rows: Vec<Row>,
}

impl Results {
    pub(crate) fn new(options: &Options) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo");
        let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let online = read("/sys/devices/system/cpu/online").trim().to_owned();
        let mut conditions = BTreeMap::from([
            ("date", options.date.clone()),
            ("commit", options.commit.clone()),
            ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
            ("processor", model.map_or_else(String::new, |(_, model)| model.to_owned())),
            ("cores", if online.is_empty() { cores.to_string() } else { online }),
            ("repetitions", format!("{} of {} s, medians", options.repetitions, options.seconds)),
        ]);
        conditions.extend(Peer::Socat.version().map(|version| ("socat", version)));
        conditions.extend(Peer::Smcroute.version().map(|version| ("smcroute", version)));
        Self { conditions, skipped: Vec::new(), failed: Vec::new(), rows: Vec::new() }
    }

    pub(crate) fn skip(&mut self, peer: Peer, reason: &str) {
        self.skipped.push((peer, reason.to_owned()));
    }

    pub(crate) fn is_skipped(&self, peer: Peer) -> bool {
        self.skipped.iter().any(|(skipped, _)| *skipped == peer)
    }

    pub(crate) fn fail(&mut self, scenario: &Scenario, peer: Peer) {
        self.failed.push(format!("{}/{}", scenario.id, peer.name()));
    }

    pub(crate) fn add(&mut self, scenario: &Scenario, peer: Peer, sample: Sample) {
        let known = self.rows.iter_mut().find(|row| row.scenario.id == scenario.id && row.peer == peer);
        match known {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { scenario: *scenario, peer, samples: vec![sample] }),
        }
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The median of a quantity.
    pub(crate) fn median(&self, scenario: &str, peer: Peer, name: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.scenario.id == scenario && row.peer == peer)?.median(name)
    }

    /// Tables of everything.
    pub(crate) fn report(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.conditions {
            let _ = writeln!(text, "{name:12} {value}");
        }
        for (peer, reason) in &self.skipped {
            let _ = writeln!(text, "skipped      {}: {reason}", peer.name());
        }
        for failed in &self.failed {
            let _ = writeln!(text, "failed       {failed}");
        }
        let saturated: Vec<Vec<String>> = self
            .rows
            .iter()
            .filter(|row| row.scenario.load.is_saturation())
            .map(|row| self.at_the_limit(row))
            .collect();
        table(
            &mut text,
            &[
                "at the limit",
                "",
                "datagrams/s",
                "spread",
                "× socat",
                "offered/s",
                "CPU ns each",
                "of a core",
                "others",
                "machine ns each",
            ],
            &saturated,
        );
        let paced: Vec<Vec<String>> =
            self.rows.iter().filter(|row| !row.scenario.load.is_saturation()).map(at_a_rate).collect();
        table(
            &mut text,
            &[
                "at a rate",
                "",
                "offered/s",
                "of a core",
                "CPU ns each",
                "machine ns each",
                "lost",
                "p50 µs",
                "p99 µs",
                "p99.9 µs",
                "other",
            ],
            &paced,
        );
        if !saturated.is_empty() {
            text.push_str(
                "\nAt the limit datagrams are counted by the receiver's interface (bytes less headers, by payload), after\n\
                 mcrgen recv agreed with it at a low rate; at a rate mcrgen recv verifies each of them. \"others\" is the share of the\n\
                 relay's core that other programs and the hypervisor took: a quiet machine has less than a few percent. \"machine ns each\"\n\
                 is the busy time of all cores, sender and softirqs included, per datagram.\n",
            );
        }
        let targets: Vec<Vec<String>> = targets::evaluate(self).into_iter().map(Vec::from).collect();
        table(&mut text, &["target", "", "measured", ""], &targets);
        text
    }

    fn at_the_limit(&self, row: &Row) -> Vec<String> {
        let (median, least, greatest) = row.spread("pps").unwrap_or_default();
        let socat = self.median(row.scenario.id, Peer::Socat, "pps");
        vec![
            row.scenario.title.to_owned(),
            row.peer.name().to_owned(),
            grouped(median),
            format!("{:.0} %", (greatest - least) / median.max(1.0) * 100.0),
            socat.map_or_else(String::new, |socat| format!("{:.1}", median / socat.max(1.0))),
            row.median("offered").map_or_else(String::new, grouped),
            shown(row.median("cpu_ns"), 1.0, 0),
            percent(row.median("share"), 0),
            percent(row.median("others"), 0),
            shown(row.median("machine_ns"), 1.0, 0),
        ]
    }

    /// Writes the files that were asked for.
    pub(crate) fn write(&self, options: &Options) {
        let save = |path: &str, text: String| {
            if let Err(error) = std::fs::write(path, text) {
                eprintln!("error: {path}: {error}");
            }
        };
        if let Some(path) = &options.json {
            save(path, format!("{:#}\n", self.json()));
        }
        if let Some(path) = &options.chart {
            save(path, chart::draw(self, &self.subtitle()));
        }
    }

    fn subtitle(&self) -> String {
        let part = |name| self.conditions.get(name).cloned().unwrap_or_default();
        format!(
            "one relay core; Linux {}, {}; {}; commit {}, {}",
            part("kernel"),
            part("processor"),
            part("repetitions"),
            part("commit"),
            part("date")
        )
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "scenario": row.scenario.id,
                    "title": row.scenario.title,
                    "peer": row.peer.name(),
                    "counted_by": if row.scenario.load.is_saturation() { "interface bytes" } else { "mcrgen recv" },
                    "samples": row.samples,
                    "medians": row.samples.first().into_iter().flat_map(|sample| sample.keys())
                        .filter_map(|name| Some((*name, row.median(name)?))).collect::<BTreeMap<_, _>>(),
                })
            })
            .collect();
        let targets: Vec<Value> = targets::evaluate(self)
            .into_iter()
            .map(|[scenario, target, measured, verdict]| {
                json!({"scenario": scenario, "target": target, "measured": measured, "verdict": verdict})
            })
            .collect();
        let skipped: BTreeMap<&str, &str> =
            self.skipped.iter().map(|(peer, reason)| (peer.name(), reason.as_str())).collect();
        json!({
            "conditions": self.conditions,
            "skipped": skipped,
            "failed": self.failed,
            "results": rows,
            "targets": targets,
        })
    }
}

fn at_a_rate(row: &Row) -> Vec<String> {
    let mut other = Vec::new();
    for (name, text) in [("receiver_drops", "dropped by the receiver"), ("duplicates", "duplicates")] {
        if let Some(count) = row.median(name).filter(|count| *count > 0.0) {
            other.push(format!("{} {text}", grouped(count)));
        }
    }
    if let Some(least) = row.median("least_worker") {
        other.push(format!("lesser worker {:.0} %", least * 100.0));
    }
    vec![
        row.scenario.title.to_owned(),
        row.peer.name().to_owned(),
        row.median("offered").map_or_else(String::new, grouped),
        percent(row.median("share"), 1),
        shown(row.median("cpu_ns"), 1.0, 0),
        shown(row.median("machine_ns"), 1.0, 0),
        row.median("lost").map_or_else(String::new, grouped),
        shown(row.median("p50_us"), 1.0, 1),
        shown(row.median("p99_us"), 1.0, 1),
        shown(row.median("p999_us"), 1.0, 1),
        other.join(", "),
    ]
}

/// One run in a line, for who watches.
pub(crate) fn in_short(sample: &Sample) -> String {
    let parts: Vec<String> = sample.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
    parts.join(", ")
}

/// A count with thousands apart.
pub(crate) fn grouped(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn shown(value: Option<f64>, factor: f64, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{:.decimals$}", value * factor))
}

fn percent(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{:.decimals$} %", value * 100.0))
}

/// Appends a Markdown table whose columns are aligned; the first two are text, the others numbers.
fn table(text: &mut String, head: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str).chain([head[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default().max(2)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    text.push('\n');
    let mut line = |cells: Vec<&str>| {
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let _ = if column < 2 {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
    };
    line(head.to_vec());
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(column, width)| if column < 2 { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" })
        .collect();
    line(rules.iter().map(String::as_str).collect());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}
