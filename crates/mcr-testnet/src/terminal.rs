//! A pseudo-terminal for full-screen programs, and its screen.

use std::fmt;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use mcr_sys::process::{CommandExt, PidFd, Signal};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::wait_for;

/// Deadline for a program to exit.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// A terminal.
pub struct Terminal {
    /// The master side: keys in, output out.
    controller: OwnedFd,
    /// stdin, stdout and stderr of the programs.
    user: OwnedFd,
    parser: vt100::Parser,
    bytes: Vec<u8>,
    modes: String,
}

/// The text of a screen, for messages.
struct Seen(String);

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}\n", self.0)
    }
}

impl Terminal {
    /// Opens one.
    #[must_use]
    pub fn open(columns: u16, lines: u16) -> Self {
        let controller =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("openpt");
        grantpt(&controller).expect("grantpt");
        unlockpt(&controller).expect("unlockpt");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = ioctl_tiocgptpeer(&controller, flags).expect("open the terminal's other end");
        rustix::io::ioctl_fionbio(&controller, true).expect("FIONBIO");
        let parser = vt100::Parser::new(size(lines), size(columns), 0);
        let mut terminal = Self { controller, user, parser, bytes: Vec::new(), modes: String::new() };
        terminal.resize(columns, lines);
        terminal.modes = terminal.modes_now();
        terminal
    }

    /// Runs a program in it, in its own session; it is killed when the value is dropped.
    #[must_use]
    pub fn start(&self, command: &Command) -> Program {
        // setsid(1) makes it the controlling terminal, so that changes of its size and a hangup are signaled.
        self.spawn(command, &["--ctty"])
    }

    /// [`Self::start`] without a controlling terminal: a hangup is not signaled.
    #[must_use]
    pub fn start_detached(&self, command: &Command) -> Program {
        self.spawn(command, &[])
    }

    /// Hangs up: closes both sides.
    pub fn hang_up(self) {
        drop(self);
    }

    fn spawn(&self, command: &Command, options: &[&str]) -> Program {
        let end = || self.user.try_clone().expect("duplicate a terminal");
        let mut session = Command::new("setsid");
        session.args(options).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.stdin(end()).stdout(end()).stderr(end()).die_with_parent();
        let child = session.spawn().unwrap_or_else(|error| panic!("{session:?}: {error}"));
        let handle = PidFd::open(child.id()).expect("watch a program");
        Program { child, handle }
    }

    /// Changes its size.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        self.read();
        self.parser.set_size(size(lines), size(columns));
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.controller, size).expect("TIOCSWINSZ");
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        let written = rustix::io::write(&self.controller, keys.as_bytes()).expect("press keys");
        assert_eq!(written, keys.len(), "the terminal takes no more keys");
    }

    /// The text on the screen, without trailing blanks.
    pub fn screen(&mut self) -> String {
        self.read();
        let contents = self.parser.screen().contents();
        contents.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
    }

    /// All output so far.
    pub fn bytes(&mut self) -> &[u8] {
        self.read();
        &self.bytes
    }

    /// Returns whether a character on the screen has a color.
    pub fn has_colour(&mut self) -> bool {
        self.read();
        let screen = self.parser.screen();
        let (lines, columns) = screen.size();
        (0..lines.get()).any(|line| {
            (0..columns.get()).any(|column| {
                screen.cell(line, column).is_some_and(|cell| {
                    cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default
                })
            })
        })
    }

    /// Waits until `find` returns a value for the screen.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> T {
        wait_for(what, deadline, || {
            let screen = self.screen();
            look(&screen).ok_or(Seen(screen))
        })
    }

    /// Waits until a text appears on the screen.
    pub fn wait_for_text(&mut self, text: &str, deadline: Duration) {
        self.wait_for(&format!("{text:?} on the screen"), deadline, |screen| {
            screen.contains(text).then_some(())
        });
    }

    /// Asserts that a program has restored the terminal: modes, primary screen, visible cursor.
    pub fn assert_as_before(&mut self) {
        self.read();
        let screen = self.parser.screen();
        assert!(!screen.alternate_screen(), "the second screen is still shown:\n{}", screen.contents());
        assert!(!screen.hide_cursor(), "the cursor is still hidden");
        assert_eq!(self.modes_now(), self.modes, "modes of the terminal");
    }

    fn modes_now(&self) -> String {
        format!("{:?}", tcgetattr(&self.user).expect("tcgetattr"))
    }

    fn read(&mut self) {
        let mut chunk = [0; 4096];
        loop {
            match rustix::io::read(&self.controller, &mut chunk) {
                Ok(length) if length > 0 => {
                    let bytes = chunk.get(..length).unwrap_or_default();
                    self.bytes.extend_from_slice(bytes);
                    self.parser.process(bytes);
                }
                Ok(_) | Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(errno) => panic!("read from a terminal: {errno}"),
            }
        }
    }
}

fn size(value: u16) -> NonZeroU16 {
    NonZeroU16::new(value).expect("a terminal has lines and columns")
}

/// A program in a terminal.
#[derive(Debug)]
pub struct Program {
    child: Child,
    handle: PidFd,
}

impl Program {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // A program that has exited needs none.
        let _ = self.handle.kill(signal);
    }

    /// Waits for its exit. Its remaining output has to fit the terminal's buffer, so check the screen before.
    pub fn wait(&mut self, terminal: &mut Terminal) -> ExitStatus {
        wait_for("the end of a program", END_DEADLINE, || {
            let screen = terminal.screen();
            self.child.try_wait().expect("wait for a program").ok_or(Seen(screen))
        })
    }

    /// Waits for its exit after its terminal hung up.
    pub fn wait_after_hangup(&mut self, deadline: Duration) -> ExitStatus {
        wait_for("the end of a program without terminal", deadline, || {
            self.child.try_wait().expect("wait for a program").ok_or("it runs")
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
