//! Metric families by `prometheus-client`, in either text format.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The text format of an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>
    OpenMetrics,
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    Prometheus,
}

impl Format {
    /// Returns the format that an `Accept` header asks for.
    pub(super) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Returns the value of `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }

    /// Encodes what the collector reports.
    pub(super) fn encode(self, collector: impl Collector) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(collector));
        let mut exposition = String::new();
        match self {
            Self::OpenMetrics => text::encode(&mut exposition, &registry)?,
            Self::Prometheus => prometheus_text::encode(&mut exposition, &registry)?,
        }
        Ok(exposition)
    }
}

/// A sample without labels.
pub(super) const NO_LABELS: [(&str, &str); 0] = [];

/// Writes metric families, each with all of its samples.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    /// Writes counters. The encoder appends `_total` to their name.
    pub(super) fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        debug_assert!(!name.ends_with("_total"), "{name}");
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    /// Writes gauges.
    pub(super) fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes histograms: the sum, the number of samples, and the samples in each bucket up to its bound.
    pub(super) fn histogram<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = (L, f64, u64, Vec<(f64, u64)>)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, sum, count, buckets) in histograms {
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Example;

    impl Collector for Example {
        fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
            let mut out = Families(encoder);
            out.counter("mcr_sent", "Datagrams.", [([("rule", "a\"b\\c\nd"), ("output", "x")], 7)])?;
            out.gauge("mcr_up", "Answers.", [(NO_LABELS, 1_u64)])?;
            let buckets = vec![(0.5, 2), (f64::INFINITY, 1)];
            out.histogram("mcr_latency_seconds", "Latency.", [([("worker", "w")], 1.5, 3, buckets)])
        }
    }

    #[test]
    fn both_formats_escape_labels_name_counters_and_accumulate_buckets() {
        for (format, counter, eof) in
            [(Format::OpenMetrics, "mcr_sent", true), (Format::Prometheus, "mcr_sent_total", false)]
        {
            let text = format.encode(Example).unwrap();
            let mut lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.last() == Some(&"# EOF"), eof, "{text}");
            assert_eq!(
                lines[..2],
                [format!("# HELP {counter} Datagrams."), format!("# TYPE {counter} counter")]
            );
            assert_eq!(lines[2], "mcr_sent_total{rule=\"a\\\"b\\\\c\\nd\",output=\"x\"} 7");
            assert_eq!(lines[3..6], ["# HELP mcr_up Answers.", "# TYPE mcr_up gauge", "mcr_up 1"]);
            lines.retain(|line| line.starts_with("mcr_latency_seconds"));
            lines.sort_unstable();
            let values: Vec<&str> = lines.iter().filter_map(|line| Some(line.rsplit_once(' ')?.1)).collect();
            assert_eq!(values, ["3", "2", "3", "1.5"], "+Inf, 0.5, count, sum of {text}");
        }
    }

    #[test]
    fn the_accept_header_selects_the_format() {
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        assert_eq!(Format::accepted(accept), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
    }
}
