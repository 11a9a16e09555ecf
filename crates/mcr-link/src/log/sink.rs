//! A bounded queue of log lines and the thread that writes them, so that a standard error nobody reads (a full pipe, a
//! stopped terminal, pipe(7)) never blocks the caller.
//!
//! ```text
//!  tracing event ─▶ Line ─▶ queue, at most MAX_QUEUED_BYTES ─▶ writer thread ─▶ standard error
//!                             └─ full: the line is dropped and counted
//! ```
//!
//! When the writer makes progress again it logs how many lines were dropped.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcr_rules::log::CONTROL;

/// Lines that wait for the writer: several thousand, some seconds of the debug level.
const MAX_QUEUED_BYTES: usize = 512 * 1024;
/// How long an exiting process waits for its last lines to be written.
const FLUSH_DEADLINE: Duration = Duration::from_millis(200);

/// Writes to standard error; where that fails (closed, `/dev/full`) the line is lost, as there is no other place for it.
pub(super) fn standard_error(line: &[u8]) {
    let _ = std::io::stderr().write_all(line);
}

/// See the module.
pub(super) struct Sink {
    shared: Arc<Shared>,
    /// Writes one line; may block.
    write: fn(&[u8]),
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signals a new line to the writer, and an empty queue to [`Sink::flush`].
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines dropped since the last report.
    dropped: u64,
    /// A line is being written.
    writing: bool,
    has_writer: bool,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    pub(super) fn new(write: fn(&[u8])) -> Self {
        Self { shared: Arc::default(), write }
    }

    /// A writer for the line of one event.
    pub(super) fn line(&self) -> Line {
        Line(Arc::clone(&self.shared))
    }

    /// Starts the writer unless there is one.
    pub(super) fn spawn_writer(&self) {
        if std::mem::replace(&mut self.shared.lock().has_writer, true) {
            return;
        }
        let (shared, write) = (Arc::clone(&self.shared), self.write);
        let spawned =
            std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_lines(write));
        if spawned.is_err() {
            // No thread is to be had (RLIMIT_NPROC): tried again with the next call.
            self.shared.lock().has_writer = false;
        }
    }

    /// Waits until everything is written, at most for [`FLUSH_DEADLINE`].
    pub(super) fn flush(&self) {
        self.spawn_writer();
        let pending = |queue: &mut Queue| queue.has_writer && (queue.writing || !queue.lines.is_empty());
        let _ = self.shared.changed.wait_timeout_while(self.shared.lock(), FLUSH_DEADLINE, pending);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that holds the lock panics.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.bytes + line.len() > MAX_QUEUED_BYTES {
            queue.dropped += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.changed.notify_all();
    }

    fn write_lines(&self, write: fn(&[u8])) {
        let mut queue = self.lock();
        loop {
            let Some(line) = queue.lines.pop_front() else {
                self.changed.notify_all();
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.writing = true;
            drop(queue);
            write(&line);
            queue = self.lock();
            queue.writing = false;
            queue.bytes -= line.len();
            let dropped = std::mem::take(&mut queue.dropped);
            if dropped > 0 {
                drop(queue);
                tracing::warn!(target: CONTROL, dropped, "the log was not read fast enough: lines were dropped");
                queue = self.lock();
            }
        }
    }
}

/// One event's line, queued as a whole.
pub(super) struct Line(Arc<Shared>);

impl Write for Line {
    /// Queues one line: the formatter writes each event by a single call.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts() {
        let sink = Sink::new(|_| {});
        let line = [b'x'; 1024];
        for _ in 0..1_000 {
            sink.line().write_all(&line).unwrap();
        }
        let queue = sink.shared.lock();
        assert_eq!((queue.lines.len(), queue.dropped), (512, 488));
    }

    #[test]
    fn flush_waits_for_all_lines_and_not_for_a_blocked_writer() {
        let sink = Sink::new(|line| {
            if line == b"block" {
                loop {
                    std::thread::park();
                }
            }
        });
        for _ in 0..100 {
            sink.line().write_all(b"line").unwrap();
        }
        sink.flush();
        assert!(sink.shared.lock().lines.is_empty());
        sink.line().write_all(b"block").unwrap();
        sink.line().write_all(b"behind it").unwrap();
        sink.flush();
        assert_eq!(sink.shared.lock().lines.len(), 1);
    }
}
