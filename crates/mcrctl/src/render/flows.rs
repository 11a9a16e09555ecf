//! Flows, and dates.

use std::net::SocketAddr;

use mcr_control::reply::{FlowStatus, FlowsReply};

use super::{bit_rate, rule_title, time_of_day};
use crate::table::Align::{Left, Right};
use crate::table::{Column, Table};

/// `flows`: one line per flow.
pub(crate) fn flows(reply: &FlowsReply) -> String {
    let columns: &[Column<FlowStatus>] = &[
        ("RULE", Left, |flow| rule_title(flow.rule, flow.name.as_ref())),
        ("SOURCE", Left, |flow| SocketAddr::new(flow.source, flow.port).to_string()),
        ("STATE", Left, |flow| if flow.flowing { "flowing" } else { "silent" }.to_owned()),
        ("PACKETS", Right, |flow| flow.packets.to_string()),
        ("BYTES", Right, |flow| flow.bytes.to_string()),
        ("PPS", Right, |flow| format!("{:.0}", flow.pps)),
        ("RATE", Right, |flow| bit_rate(flow.bps)),
        ("FIRST", Right, |flow| date_and_time(flow.first_ms)),
        ("LAST", Right, |flow| date_and_time(flow.last_ms)),
    ];
    let table = Table::of(&reply.flows, columns);
    let mut text = if table.is_empty() {
        "no flows: no rule has received a datagram\n".to_owned()
    } else {
        table.to_string()
    };
    if reply.unlisted > 0 {
        text = format!(
            "{text}\n{} more datagrams of flows that are not listed: the flow table is full\n",
            reply.unlisted
        );
    }
    text
}

/// Month, day and time of milliseconds since 1970, UTC.
pub(super) fn date_and_time(at_ms: u64) -> String {
    let (month, day) = month_and_day(at_ms / 86_400_000);
    format!("{month:02}-{day:02} {}", time_of_day(at_ms))
}

/// Returns month and day of a number of days after 1970-01-01 in the Gregorian calendar. It counts in eras of 400 years
/// that begin in March, so that the leap day is the last of a year.
const fn month_and_day(days: u64) -> (u64, u64) {
    let day_of_era = (days + 719_468) % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn days_are_those_of_the_calendar() {
        // date -u -d @SECONDS '+%m-%d %T'
        for (seconds, expected) in [
            (0, "01-01 00:00:00.000Z"),
            (951_782_399, "02-28 23:59:59.000Z"),
            (951_782_400, "02-29 00:00:00.000Z"),
            (951_868_800, "03-01 00:00:00.000Z"),
            (1_735_689_599, "12-31 23:59:59.000Z"),
            (1_795_413_677, "11-23 06:01:17.000Z"),
            (4_107_542_399, "02-28 23:59:59.000Z"),
            (4_107_542_400, "03-01 00:00:00.000Z"),
        ] {
            assert_eq!(date_and_time(seconds * 1000), expected, "{seconds}");
        }
    }

    #[test]
    fn a_flow_has_a_line() {
        let reply: FlowsReply = serde_json::from_value(json!({
            "flows": [
                { "rule": "0123456789abcdef", "name": "video", "source": "10.1.0.5", "port": 4000, "packets": 10,
                  "bytes": 1000, "pps": 5.4, "bps": 2_500_000.0, "first_ms": 951_782_400_123_u64,
                  "last_ms": 951_782_400_999_u64, "flowing": true },
                { "rule": "0123456789abcdef", "name": null, "source": "fd00::1", "port": 4000, "packets": 1,
                  "bytes": 1, "pps": 0.0, "bps": 0.0, "first_ms": 1, "last_ms": 2, "flowing": false },
            ],
            "unlisted": 7,
        }))
        .unwrap();
        let text = flows(&reply);
        let lines: Vec<&str> = text.lines().collect();
        for part in
            ["video", "10.1.0.5:4000", "flowing", "2.50 Mbit/s", "02-29 00:00:00.123Z", "02-29 00:00:00.999Z"]
        {
            assert!(lines[1].contains(part), "{part:?} is not in\n{text}");
        }
        for part in ["0123456789abcdef", "[fd00::1]:4000", "silent"] {
            assert!(lines[2].contains(part), "{part:?} is not in\n{text}");
        }
        assert!(
            text.ends_with("7 more datagrams of flows that are not listed: the flow table is full\n"),
            "{text}"
        );
        assert!(flows(&FlowsReply::default()).starts_with("no flows"));
    }
}
