//! `stats`, `flows`, `events`, `workers`, `memberships`, `interfaces`.

use std::ops::ControlFlow;
use std::time::Instant;

use mcr_control::event::{EventKind, EventReply};
use mcr_control::method::parameter::RuleFilter;
use mcr_control::method::{GetStats, ListFlows, ListInterfaces, ListMemberships, ListWorkers, Subscribe};

use mcr_control::reply::StatsReply;
use mcr_rules::RuleId;
use serde::Serialize;

use super::explain::select;
use super::{Daemon, Outcome};
use crate::failure::CommandFailure;
use crate::hangup::exit_with_reader;
use crate::rates::{RuleRate, RuleRates, Window};
use crate::render;
use crate::screen::{Reader, Screen};

pub(super) fn stats(daemon: &Daemon, screen: &Screen) -> Outcome {
    let reply = daemon.connect()?.call(&GetStats {})?;
    screen.show(&reply, || render::stats(&reply))
}

pub(super) fn watch_stats(daemon: &Daemon, screen: &Screen) -> Outcome {
    exit_with_reader().map_err(CommandFailure::new)?;
    let mut shown = Ok(Reader::Present);
    let (began, mut rates) = (now(), RuleRates::default());
    daemon.connect()?.stream(&GetStats {}, |reply| {
        rates.sample(now().saturating_duration_since(began), &reply);
        let watched = Watched { rates: rates_of(&reply, &rates), reply: &reply };
        shown = screen.show_next(&watched, || render::watched_stats(&reply, &rates));
        if matches!(shown, Ok(Reader::Present)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    shown.map(|_| ())
}

/// One line of `stats --watch --json`: the reply, and rates from the counters of several.
#[derive(Serialize)]
struct Watched<'a> {
    #[serde(flatten)]
    reply: &'a StatsReply,
    rates: Vec<WatchedRule>,
}

/// A rule's rates; `null` in the first line.
#[derive(Serialize)]
struct WatchedRule {
    id: RuleId,
    over_1s: Option<RuleRate>,
    over_10s: Option<RuleRate>,
}

fn rates_of(reply: &StatsReply, rates: &RuleRates) -> Vec<WatchedRule> {
    let of = |id| WatchedRule {
        id,
        over_1s: rates.over(id, Window::Second),
        over_10s: rates.over(id, Window::TenSeconds),
    };
    reply.rules.iter().map(|rule| of(rule.id)).collect()
}

#[expect(clippy::disallowed_methods, reason = "the program measures the time between replies")]
fn now() -> Instant {
    Instant::now()
}

pub(super) fn events(daemon: &Daemon, screen: &Screen, text: bool) -> Outcome {
    exit_with_reader().map_err(CommandFailure::new)?;
    let mut shown = Ok(Reader::Present);
    daemon.connect()?.stream(&Subscribe {}, |EventReply { event }| {
        // Only to see that the other side is there.
        if event.kind != EventKind::Alive {
            shown = if text && !screen.json {
                screen.show_line(&render::event(&event))
            } else {
                screen.show_json_line(&event)
            };
        }
        if matches!(shown, Ok(Reader::Present)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    shown.map(|_| ())
}

pub(super) fn flows(daemon: &Daemon, screen: &Screen, rule: Option<&str>) -> Outcome {
    let rule = RuleFilter(rule.map(select).transpose()?);
    let reply = daemon.connect()?.call(&ListFlows { rule })?;
    screen.show(&reply, || render::flows(&reply))
}

pub(super) fn workers(daemon: &Daemon, screen: &Screen) -> Outcome {
    let reply = daemon.connect()?.call(&ListWorkers {})?;
    screen.show(&reply, || render::workers(&reply))
}

pub(super) fn memberships(daemon: &Daemon, screen: &Screen) -> Outcome {
    let reply = daemon.connect()?.call(&ListMemberships {})?;
    screen.show(&reply, || render::memberships(&reply))
}

pub(super) fn interfaces(daemon: &Daemon, screen: &Screen) -> Outcome {
    let reply = daemon.connect()?.call(&ListInterfaces {})?;
    screen.show(&reply, || render::interfaces(&reply))
}
