//! `top`: a live view of rules, workers and events.
//!
//! ```text
//!  feed (threads): asks mcrd, subscribes ──Report──▶ state ──▶ view ──▶ terminal
//!                                           keys ──▶ (pure)    (pure)
//! ```

mod activity;
mod changes;
mod feed;
mod log;
mod series;
mod snapshot;
mod state;
mod table;
mod terminal;
mod theme;
mod view;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mcr_control::client::Client;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::feed::Source;
use self::state::{State, Wish};
use self::terminal::Taken;
use self::theme::Theme;

/// Interval at which reports and signals are polled while no key is pressed.
const TICK: Duration = Duration::from_millis(100);
/// Reports queued while the screen is drawn.
const WAITING: usize = 2;

/// Options of `top`.
pub(crate) struct Options {
    pub socket: PathBuf,
    /// Time for a reply before the connection is shown as lost.
    pub timeout: Duration,
    pub colour: bool,
    pub unicode: bool,
}

/// Runs until the user quits or a termination signal arrives.
pub(crate) fn run(options: Options, client: Client) -> io::Result<()> {
    let theme = Theme { colour: options.colour, unicode: options.unicode };
    let asked_to_end = terminal::asked_to_end()?;
    // The terminal library reads a hung-up terminal in an endless loop.
    crate::hangup::exit_with_reader()?;
    let (sender, reports) = mpsc::sync_channel(WAITING);
    // Dropped with this function: the feed ends then.
    let (_running, stop) = mpsc::channel();
    let epoch = feed::now();
    let source = Arc::new(Source { socket: options.socket, timeout: options.timeout, epoch });
    let (following, reporting) = (Arc::clone(&source), sender.clone());
    let feed = thread::Builder::new()
        .name("feed".to_owned())
        .spawn(move || following.follow(Some(client), &reporting, &stop))?;
    let (subscribing, telling) = (Arc::clone(&source), sender.clone());
    thread::Builder::new().name("events".to_owned()).spawn(move || subscribing.subscribe(&telling))?;
    let mut taken = Taken::take()?;
    let mut state = State::default();
    let mut stale = true;
    while !asked_to_end.load(Ordering::SeqCst) {
        if feed.is_finished() {
            return Err(io::Error::other("the thread that polls mcrd has died"));
        }
        while let Ok(report) = reports.try_recv() {
            state.take(report);
            stale = true;
        }
        if let Some(question) = state.question.take() {
            let (source, sender) = (Arc::clone(&source), sender.clone());
            thread::Builder::new().name("explain".to_owned()).spawn(move || {
                // The receiver is gone after the user has quit.
                let _ = sender.send(source.explain(question));
            })?;
        }
        if let Some(rule) = state.to_trace.take() {
            let (source, sender) = (Arc::clone(&source), sender.clone());
            thread::Builder::new().name("trace".to_owned()).spawn(move || source.trace(rule, &sender))?;
        }
        if stale {
            taken.terminal.draw(|frame| view::draw(&state, theme, frame.area(), frame.buffer_mut()))?;
            stale = false;
        }
        let mut wait = TICK;
        while event::poll(wait)? {
            stale = true;
            wait = Duration::ZERO;
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match state.press(key) {
                    Wish::Nothing => {}
                    Wish::Redraw => taken.clear()?,
                    Wish::Leave => return Ok(()),
                },
                _ => {}
            }
        }
    }
    Ok(())
}
