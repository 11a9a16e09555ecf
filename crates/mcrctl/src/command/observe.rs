//! `stats`, `workers`, `memberships`, `interfaces`.

use std::ops::ControlFlow;

use mcr_control::method::{GetStats, ListInterfaces, ListMemberships, ListWorkers};

use super::{Daemon, Outcome};
use crate::render;
use crate::screen::{Reader, Screen};

pub(super) fn stats(daemon: &Daemon, screen: &Screen) -> Outcome {
    let reply = daemon.connect()?.call(&GetStats {})?;
    screen.show(&reply, || render::stats(&reply))
}

pub(super) fn watch_stats(daemon: &Daemon, screen: &Screen) -> Outcome {
    let mut shown = Ok(Reader::Present);
    daemon.connect()?.stream(&GetStats {}, |reply| {
        shown = screen.show_next(&reply, || render::stats(&reply));
        if matches!(shown, Ok(Reader::Present)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    shown.map(|_| ())
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
