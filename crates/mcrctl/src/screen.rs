//! Standard output: text or JSON; a closed pipe is not an error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use rustix::io::Errno;
use serde::Serialize;

use crate::failure::CommandFailure;

/// Where data goes.
pub(crate) struct Screen {
    /// JSON instead of tables.
    pub json: bool,
    is_terminal: bool,
}

/// Whether the reader of the output is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Present,
    /// The other end of the pipe is closed, as with `mcrctl … | head`, or the terminal hung up.
    Gone,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, is_terminal: io::stdout().is_terminal() }
    }

    /// Shows one result: the JSON of `value`, or `text`.
    pub(crate) fn show<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CommandFailure> {
        let out = if self.json {
            serde_json::to_string_pretty(value).map_err(CommandFailure::new)? + "\n"
        } else {
            text()
        };
        self.write(&out).map(|_| ())
    }

    /// Shows one result of many: a line of JSON, or a text that replaces the previous one on a terminal.
    pub(crate) fn show_next<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<Reader, CommandFailure> {
        if self.json {
            return self.show_json_line(value);
        }
        // Cursor home, erase to the end: ECMA-48 CUP and ED.
        let (before, after) = if self.is_terminal { ("\x1b[H\x1b[J", "") } else { ("", "\n") };
        self.write(&format!("{before}{}{after}", text()))
    }

    /// Shows one result of many as a line of JSON.
    pub(crate) fn show_json_line<T: Serialize>(&self, value: &T) -> Result<Reader, CommandFailure> {
        self.show_line(&serde_json::to_string(value).map_err(CommandFailure::new)?)
    }

    /// Shows one result of many as a line.
    pub(crate) fn show_line(&self, line: &str) -> Result<Reader, CommandFailure> {
        self.write(&format!("{line}\n"))
    }

    /// Prints a message to stderr.
    pub(crate) fn say(&self, message: impl Display) {
        // A closed stderr is no reason to fail.
        let _ = writeln!(io::stderr(), "{message}");
    }

    /// Shows a part of a text.
    pub(crate) fn write(&self, text: &str) -> Result<Reader, CommandFailure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(Reader::Present),
            // EIO: a terminal that hung up.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe || is_hung_up(&error) => Ok(Reader::Gone),
            Err(error) => Err(CommandFailure::new(format_args!("can't write to stdout: {error}"))),
        }
    }
}

fn is_hung_up(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::IO)
}
