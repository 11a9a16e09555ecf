//! The terminal while the program has it, and as it was before.

use std::io::{self, Stdout, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The terminal in raw mode on its second screen. Dropping it brings everything back, and so does a panic.
pub(super) struct Taken {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

/// Whether there is something to bring back.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Taken {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It is gone, or stdin is none.
    pub(super) fn take() -> io::Result<Self> {
        bring_back_on_panic();
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let entered = enter(&mut io::stdout()).and_then(|()| {
            let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
            terminal.clear()?;
            Ok(terminal)
        });
        entered.map(|terminal| Self { terminal }).inspect_err(|_| bring_back())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        bring_back();
    }
}

fn enter(out: &mut impl Write) -> io::Result<()> {
    execute!(out, EnterAlternateScreen, Hide)
}

fn leave(out: &mut impl Write) -> io::Result<()> {
    execute!(out, Show, LeaveAlternateScreen)
}

/// Once, however often it is called.
fn bring_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing back.
        let _ = leave(&mut io::stdout());
        let _ = disable_raw_mode();
    }
}

/// A panic's message belongs on the screen that stays.
fn bring_back_on_panic() {
    let told_by = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        bring_back();
        told_by(what);
    }));
}

/// Becomes true when the process is asked to end: SIGTERM, SIGINT, SIGHUP.
///
/// # Errors
/// sigaction(2) failed.
pub(super) fn asked_to_end() -> io::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_entered_is_left() {
        // DECSET and DECRST of xterm: 1049 is the alternate screen, 25 the cursor.
        let (mut entered, mut left) = (Vec::new(), Vec::new());
        enter(&mut entered).unwrap();
        leave(&mut left).unwrap();
        assert_eq!(entered, b"\x1b[?1049h\x1b[?25l");
        assert_eq!(left, b"\x1b[?25h\x1b[?1049l");
    }
}
