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
use ratatui::layout::{Position, Rect};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

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
            let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
            let mut taken = Self { terminal };
            taken.clear()?;
            Ok(taken)
        });
        entered.inspect_err(|_| bring_back())
    }

    /// Clears the screen, so that the next drawing draws everything.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // Terminal::clear asks the terminal where its cursor is; one that does not answer would cost seconds and fail.
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
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

/// Becomes true when the process is asked to end: SIGTERM, SIGINT, SIGHUP, SIGQUIT.
pub(super) fn asked_to_end() -> io::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "the test below runs it, in a terminal of its own"]
    fn panics_with_the_terminal() {
        let _taken = Taken::take().unwrap();
        panic!("this is the panic's message");
    }

    #[test]
    fn a_panic_brings_the_terminal_back_and_is_read_there() {
        let mut terminal = mcr_testnet::Terminal::open(80, 24);
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "top::terminal::tests::panics_with_the_terminal",
            "--ignored",
            "--nocapture",
        ]);
        command.env("RUST_BACKTRACE", "0");
        let status = terminal.start(&command).wait(&mut terminal);
        assert!(!status.success());
        terminal.assert_as_before();
        let taken = terminal.bytes().windows(8).any(|bytes| bytes == b"\x1b[?1049h");
        assert!(taken, "it never had the terminal:\n{}", terminal.screen());
        let screen = terminal.screen();
        assert!(screen.contains("this is the panic's message"), "{screen}");
    }

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
