//! `stats --watch`, `events`.

use std::ops::ControlFlow;
use std::time::Instant;

use mcr_control::event::{EventKind, EventReply};
use mcr_control::method::{GetStats, Method, Subscribe};
use mcr_control::reply::StatsReply;
use mcr_rules::RuleId;
use serde::Serialize;

use super::{Daemon, Outcome};
use crate::failure::CommandFailure;
use crate::hangup::exit_with_reader;
use crate::rates::{RuleRate, RuleRates, Window};
use crate::render;
use crate::screen::{Reader, Screen};

pub(super) fn watch_stats(daemon: &Daemon, screen: &Screen) -> Outcome {
    let (began, mut rates) = (now(), RuleRates::default());
    follow(daemon, &GetStats {}, |reply| {
        rates.sample(now().saturating_duration_since(began), &reply);
        let watched = Watched { rates: rates_of(&reply, &rates), reply: &reply };
        screen.show_next(&watched, || render::watched_stats(&reply, &rates))
    })
}

/// Shows each reply, until there are no more or nobody reads them.
fn follow<M: Method>(
    daemon: &Daemon,
    method: &M,
    mut show: impl FnMut(M::Reply) -> Result<Reader, CommandFailure>,
) -> Outcome {
    exit_with_reader().map_err(CommandFailure::new)?;
    let mut shown = Ok(Reader::Present);
    daemon.connect()?.stream(method, |reply| {
        shown = show(reply);
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

#[expect(clippy::disallowed_methods, reason = "measures the time between replies")]
fn now() -> Instant {
    Instant::now()
}

pub(super) fn events(daemon: &Daemon, screen: &Screen, text: bool) -> Outcome {
    follow(daemon, &Subscribe {}, |EventReply { event }| match event.kind {
        // Only to see that the other side is there.
        EventKind::Alive => Ok(Reader::Present),
        _ if text && !screen.json => screen.show_line(&render::event(&event)),
        _ => screen.show_json_line(&event),
    })
}
