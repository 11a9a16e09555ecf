//! The daemon's replies as metric families.

mod outputs;
mod rules;
mod workers;

use std::fmt;
use std::time::Duration;

use mcr_control::method::VersionReply;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::families::{Families, NO_LABELS};
use super::snapshot::Snapshot;

/// A family of counters or gauges: its name, its help, and its value in a part of a reply.
type Value<T> = (&'static str, &'static str, fn(&T) -> u64);

/// One scrape. Without a snapshot it reports only that the daemon did not answer.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) took: Duration,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Families(encoder);
        let up = u64::from(self.snapshot.is_some());
        out.gauge("mcr_up", "Whether mcrd answered this scrape.", [(NO_LABELS, up)])?;
        let help = "How long mcrd took to answer this scrape.";
        out.gauge("mcr_scrape_duration_seconds", help, [(NO_LABELS, self.took.as_secs_f64())])?;
        let Some(snapshot) = &self.snapshot else { return Ok(()) };
        build(&mut out, &snapshot.version)?;
        rules::rules(&mut out, snapshot)?;
        rules::arrivals(&mut out, snapshot)?;
        rules::streams(&mut out, &snapshot.stats)?;
        rules::merges(&mut out, &snapshot.stats)?;
        outputs::outputs(&mut out, snapshot)?;
        workers::totals(&mut out, &snapshot.stats)?;
        workers::workers(&mut out, snapshot)?;
        workers::network(&mut out, snapshot)
    }
}

fn build(out: &mut Families, version: &VersionReply) -> fmt::Result {
    let labels = [
        ("version", &*version.mcrd),
        ("protocol", &*version.protocol),
        ("exporter", env!("CARGO_PKG_VERSION")),
    ];
    let help = "Version of mcrd, of its control protocol, and of this exporter.";
    out.gauge("mcr_build_info", help, [(labels, 1_u64)])
}
