//! The rates at saturation as bars (SVG).

use std::fmt::Write;

use crate::peers::Peer;
use crate::results::{Results, Row, grouped};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 190.0;
const BAR: f64 = 18.0;
const HEAD: f64 = 78.0;
const GROUP_GAP: f64 = 34.0;
/// Room for the number behind the longest bar.
const RIGHT: f64 = 190.0;

/// A bar for each peer, scenario by scenario, with the spread as a line.
pub(crate) fn draw(results: &Results, subtitle: &str) -> String {
    let rows: Vec<&Row> = results.rows().iter().filter(|row| row.scenario.load.is_saturation()).collect();
    let greatest = rows.iter().filter_map(|row| row.spread("pps")).map(|spread| spread.2).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / greatest;
    let mut body = String::new();
    let mut y = HEAD;
    let mut scenario = "";
    for row in rows {
        if row.scenario.id != scenario {
            scenario = row.scenario.id;
            y += GROUP_GAP;
            let _ = writeln!(
                body,
                r#"<text x="16" y="{:.1}" class="title">{}</text>"#,
                y - 8.0,
                row.scenario.title
            );
        }
        bar(&mut body, row, results.median(scenario, Peer::Socat, "pps"), y, scale);
        y += BAR + 4.0;
    }
    let height = y + 20.0;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">
<style>text {{ font: 13px sans-serif; fill: #222 }} .title {{ font-weight: bold }} .small {{ font-size: 11px; fill: #666 }}</style>
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text x="16" y="30" style="font-size: 20px; font-weight: bold">Multicast datagrams relayed per second</text>
<text x="16" y="52" class="small">{subtitle}</text>
<text x="16" y="68" class="small">Bars: medians. Thin lines: least to greatest. More is better.</text>
{body}</svg>
"##
    )
}

fn bar(body: &mut String, row: &Row, socat: Option<f64>, y: f64, scale: f64) {
    let (median, least, greatest) = row.spread("pps").unwrap_or_default();
    let colour = match row.peer {
        Peer::Mcr
        | Peer::McrAtOnce
        | Peer::McrPatient
        | Peer::McrSpared
        | Peer::McrEarlyDrop
        | Peer::McrKernel
        | Peer::McrKernelMerged
        | Peer::McrKept
        | Peer::McrMerged
        | Peer::McrAuto => "#1b7f5c",
        Peer::McrFewBuffers | Peer::McrManyBuffers | Peer::McrTraced | Peer::McrSampled => "#1b7f5c",
        Peer::McrUnconfined => "#1b7f5c",
        Peer::McrRecvmmsg | Peer::McrRecvmmsgUnconfined | Peer::McrRecvmmsgMerged => "#7cc4a8",
        Peer::Floor => "#9aa5b1",
        Peer::Socat => "#c9743a",
        Peer::Smcroute | Peer::SmcrouteJoined | Peer::SmcrouteSteered => "#5a7fb8",
    };
    let middle = y + BAR / 2.0;
    let (from, to) = (LEFT + least * scale, LEFT + greatest * scale);
    let times = socat
        .filter(|_| row.peer != Peer::Socat)
        .map_or_else(String::new, |socat| format!(" ({:.1} × socat)", median / socat.max(1.0)));
    let _ = writeln!(
        body,
        r##"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text><rect x="{LEFT}" y="{y:.1}" width="{:.1}" height="{BAR}" fill="{colour}"/><line x1="{from:.1}" x2="{to:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="#222"/><text x="{:.1}" y="{:.1}">{}{times}</text>"##,
        LEFT - 8.0,
        y + 14.0,
        row.peer.name(),
        median * scale,
        to + 8.0,
        y + 14.0,
        grouped(median),
    );
}
