//! Metric families as text.

use std::fmt::{Display, Write};

/// How a scraper wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>
    OpenMetrics,
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    Prometheus,
}

impl Format {
    /// What the `Accept` header asks for.
    pub(super) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a family's values do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grow.
    Counter,
    /// Go up and down.
    Gauge,
    /// Samples by size.
    Histogram,
}

/// A text in the making.
#[derive(Debug)]
pub(super) struct Exposition {
    text: String,
    format: Format,
    /// The name of the samples of the family under way.
    sample: String,
}

impl Exposition {
    pub(super) fn new(format: Format) -> Self {
        Self { text: String::new(), format, sample: String::new() }
    }

    /// Begins a family; a counter's samples end in `_total`.
    pub(super) fn family(&mut self, kind: Kind, name: &str, help: &str) {
        let (word, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram => ("histogram", ""),
        };
        self.sample = format!("{name}{suffix}");
        // The older format names the family as its samples.
        let family = if self.format == Format::OpenMetrics { name } else { &self.sample };
        // Writing to a String does not fail.
        let _ = write!(self.text, "# HELP {family} {help}\n# TYPE {family} {word}\n");
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(&self.sample);
        for (n, (name, label)) in labels.iter().enumerate() {
            let before = if n == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(label));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }

    /// A histogram's samples: how many up to each bound, all, and their sum.
    pub(super) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: &[(f64, u64)],
        count: u64,
        sum: f64,
    ) {
        let name = self.sample.clone();
        self.sample = format!("{name}_bucket");
        for (bound, up_to) in buckets {
            self.sample(&[labels, &[("le", &bound.to_string())]].concat(), up_to);
        }
        self.sample(&[labels, &[("le", "+Inf")]].concat(), count);
        self.sample = format!("{name}_count");
        self.sample(labels, count);
        self.sample = format!("{name}_sum");
        self.sample(labels, sum);
        self.sample = name;
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats() {
        let text = |format| {
            let mut exposition = Exposition::new(format);
            exposition.family(Kind::Counter, "mcr_sent", "Datagrams.");
            exposition.sample(&[("rule", "a\"b\\c\nd"), ("output", "x")], 7_u64);
            exposition.family(Kind::Gauge, "mcr_up", "Answers.");
            exposition.sample(&[], 1);
            exposition.finish()
        };
        let sample = "mcr_sent_total{rule=\"a\\\"b\\\\c\\nd\",output=\"x\"} 7\n";
        let rest = "# HELP mcr_up Answers.\n# TYPE mcr_up gauge\nmcr_up 1\n";
        assert_eq!(
            text(Format::OpenMetrics),
            format!("# HELP mcr_sent Datagrams.\n# TYPE mcr_sent counter\n{sample}{rest}# EOF\n")
        );
        assert_eq!(
            text(Format::Prometheus),
            format!("# HELP mcr_sent_total Datagrams.\n# TYPE mcr_sent_total counter\n{sample}{rest}")
        );
        assert_eq!(
            Format::accepted("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
            Format::OpenMetrics
        );
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
    }
}
