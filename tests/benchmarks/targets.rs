//! The targets of this project's data plane, evaluated by the medians of one run.

use crate::peers::Peer;
use crate::results::Results;

/// The default of `settings.latency_budget_us`.
const LATENCY_BUDGET_US: f64 = 50.0;

/// The scenarios that compare MCR with and without its sandbox.
const SANDBOX: [(&str, &str); 4] = [
    ("sandbox-full", "at the limit"),
    ("sandbox-100k", "100,000/s"),
    ("sandbox-20k", "20,000/s"),
    ("sandbox-5k", "5,000/s"),
];
/// How much CPU per datagram, and p99 latency, the sandbox may cost.
const MOST_SANDBOX_COST: f64 = 1.03;
const MOST_SANDBOX_DELAY_US: f64 = 5.0;

/// Scenario, target, what was measured, and whether that is met; without what this run did not measure.
pub(crate) fn evaluate(results: &Results) -> Vec<[String; 4]> {
    let pps = |scenario, peer| results.median(scenario, peer, "pps");
    let mcr = |scenario| pps(scenario, Peer::Mcr);
    let ratio = |value: Option<f64>, base: Option<f64>| Some(value? / base.filter(|base| *base > 0.0)?);
    let kernel = [Peer::Smcroute, Peer::SmcrouteSteered].into_iter().filter_map(|peer| pps("one-200", peer));
    let kernel = kernel.reduce(f64::max);
    let cost = |peer| results.median("rate-100k", peer, "cpu_ns");

    let mut rows = Vec::new();
    let mut at_least = |scenario: &str, bound: f64, of: &str, value: Option<f64>| {
        if let Some(value) = value {
            rows.push(row(scenario, &format!("≥ {bound} × {of}"), &format!("{value:.2} ×"), value >= bound));
        }
    };
    at_least("1→1, 200 B", 9.0, "socat", ratio(mcr("one-200"), pps("one-200", Peer::Socat)));
    at_least("1→1, 200 B", 2.0, "smcroute (the better)", ratio(mcr("one-200"), kernel));
    let joined = pps("one-200", Peer::SmcrouteJoined);
    at_least("1→1, 200 B", 2.0, "smcroute, joined as MCR is", ratio(mcr("one-200"), joined));
    let spared = pps("one-200", Peer::McrEarlyDrop);
    at_least("1→1, 200 B, early drop", 9.0, "socat", ratio(spared, pps("one-200", Peer::Socat)));
    at_least("1→1, 200 B, early drop", 2.0, "smcroute (the better)", ratio(spared, kernel));
    at_least("1→1, 1,400 B", 9.0, "socat", ratio(mcr("one-1400"), pps("one-1400", Peer::Socat)));
    at_least(
        "1→1, 200 B, device does not segment",
        5.0,
        "socat",
        ratio(mcr("one-200-split"), pps("one-200-split", Peer::Socat)),
    );
    at_least("1→8, 200 B", 3.0, "1→1 leaving", ratio(mcr("fan-200"), mcr("one-200")));
    for (scenario, title) in [("kept-200", "kept source, 200 B"), ("super-200", "kept source, super-frames")]
    {
        at_least(title, 0.5, "an ordinary output", ratio(pps(scenario, Peer::McrKept), mcr(scenario)));
    }
    at_least("50 rules, 200 B", 0.8, "one rule", ratio(mcr("fifty-200"), mcr("one-200")));
    at_least(
        "fallback (recvmmsg)",
        0.8,
        "io_uring",
        ratio(pps("one-200", Peer::McrRecvmmsg), mcr("one-200")),
    );

    let mut at_most = |scenario: &str, target: &str, unit: &str, bound: Option<f64>, value: Option<f64>| {
        if let (Some(bound), Some(value)) = (bound, value) {
            let target = format!("{target} ({bound:.2} {unit})");
            rows.push(row(scenario, &target, &format!("{value:.2} {unit}"), value <= bound));
        }
    };
    at_most(
        "100,000/s, 200 B",
        "≤ ¼ of socat's CPU",
        "ns",
        cost(Peer::Socat).map(|ns| ns / 4.0),
        cost(Peer::Mcr),
    );
    at_most("100,000/s, 200 B", "none lost", "", Some(0.0), results.median("rate-100k", Peer::Mcr, "lost"));
    for name in ["p50_us", "p99_us"] {
        let of = |peer| results.median("rate-20k", peer, name);
        let bound = of(Peer::Socat).map(|socat| socat + LATENCY_BUDGET_US);
        at_most("20,000/s", &format!("{} ≤ socat's + budget", &name[..3]), "µs", bound, of(Peer::Mcr));
        let target = format!("{} ≤ socat's, budget 0", &name[..3]);
        at_most("20,000/s", &target, "µs", of(Peer::Socat), of(Peer::McrAtOnce));
    }
    let patient = cost(Peer::Socat).map(|ns| ns / 4.0);
    at_most("100,000/s, budget 200 µs", "≤ ¼ of socat's CPU", "ns", patient, cost(Peer::McrPatient));
    let share = results.median("foreign-500k", Peer::Mcr, "share").map(|share| share * 100.0);
    at_most("500,000/s foreign", "share of a core", "%", Some(5.0), share);
    rows.extend(sandbox(results));
    rows
}

/// What the sandbox costs: CPU per datagram and latency, with and without it.
fn sandbox(results: &Results) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    for (scenario, title) in SANDBOX {
        for (peer, without, backend) in [
            (Peer::Mcr, Peer::McrUnconfined, "io_uring"),
            (Peer::McrRecvmmsg, Peer::McrRecvmmsgUnconfined, "recvmmsg"),
        ] {
            let of = |name| results.median(scenario, peer, name).zip(results.median(scenario, without, name));
            let title = format!("sandbox, {backend}, {title}");
            if let Some((with, without)) = of("cpu_ns") {
                let measured =
                    format!("{with:.0} / {without:.0} ns, {:+.1} %", (with / without - 1.0) * 100.0);
                let met = with <= without * MOST_SANDBOX_COST;
                rows.push(row(&title, "CPU ≤ 1.03 × of without", &measured, met));
            }
            if let Some((with, without)) = of("p99_us") {
                let measured = format!("{with:.1} / {without:.1} µs, {:+.1} µs", with - without);
                let met = with <= without + MOST_SANDBOX_DELAY_US;
                rows.push(row(&title, "p99 ≤ that of without + 5 µs", &measured, met));
            }
        }
    }
    rows
}

fn row(scenario: &str, target: &str, measured: &str, met: bool) -> [String; 4] {
    [scenario, target, measured, if met { "met" } else { "MISSED" }].map(str::to_owned)
}
