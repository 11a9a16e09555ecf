//! What `cargo xtask bench` was asked for, handed over as one JSON argument.

use serde_json::Value;

/// The options of a run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    filter: Vec<String>,
    pub(crate) repetitions: u64,
    pub(crate) seconds: u64,
    pub(crate) json: Option<String>,
    pub(crate) chart: Option<String>,
    pub(crate) list: bool,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Options {
    /// Reads `--options JSON`; without it a quick run of everything.
    pub(crate) fn parse(arguments: &[String]) -> Self {
        let place = arguments.iter().position(|argument| argument == "--options");
        let json: Value = place
            .and_then(|place| arguments.get(place + 1))
            .map_or(Value::Null, |text| serde_json::from_str(text).expect("--options is JSON"));
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        Self {
            filter: json["filter"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|filter| filter.as_str().map(str::to_owned))
                .collect(),
            repetitions: json["repetitions"].as_u64().unwrap_or(1),
            seconds: json["seconds"].as_u64().unwrap_or(1),
            json: text("json"),
            chart: text("chart"),
            list: json["list"].as_bool().unwrap_or_default(),
            commit: text("commit").unwrap_or_default(),
            date: text("date").unwrap_or_default(),
        }
    }

    /// Whether the filters let this be measured.
    pub(crate) fn wants(&self, scenario: &str, peer: &str) -> bool {
        let name = format!("{scenario}/{peer}");
        self.filter.is_empty() || self.filter.iter().any(|filter| name.contains(filter.as_str()))
    }
}
