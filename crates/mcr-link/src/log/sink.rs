//! A bounded queue of log lines and the thread that writes them, so that the caller never blocks on standard error (a full
//! pipe, a stopped terminal; pipe(7)).
//!
//! ```text
//!  tracing event ─▶ Line ─▶ queue, at most MAX_QUEUED_BYTES ─▶ writer thread ─▶ standard error
//!                             └─ full: the line is dropped and counted
//! ```
//!
//! A line is written before the call returns, unless the writer is blocked: then one caller waits [`WRITE_WAIT`], and no other
//! until the queue has drained. When the writer makes progress again, it logs the number of dropped lines.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcr_rules::log::CONTROL;

/// Maximum size of the queue: several thousand lines, some seconds at level debug.
const MAX_QUEUED_BYTES: usize = 512 * 1024;
/// Maximum time that a caller waits for its line to be written.
const WRITE_WAIT: Duration = Duration::from_millis(10);
/// Maximum time that an exiting process waits for its last lines to be written.
const FLUSH_DEADLINE: Duration = Duration::from_millis(200);

/// Writes to standard error; if that fails (closed, `/dev/full`), the line is lost.
pub(super) fn standard_error(line: &[u8]) {
    let _ = std::io::stderr().write_all(line);
}

/// See the module documentation.
pub(super) struct Sink {
    shared: Arc<Shared>,
    /// Writes one line; may block.
    write: fn(&[u8]),
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signals a new line to the writer, and a written one to callers and [`Sink::flush`].
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines dropped since the last report.
    dropped: u64,
    /// Number of lines queued, and of those written.
    queued: u64,
    written: u64,
    /// The writer did not write a line in time, and has not caught up since.
    blocked: bool,
    has_writer: bool,
    /// The process may not start threads any more.
    no_more_threads: bool,
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
        // It can't fail.
        let _ = self.spawn_writer_after(|| Ok::<(), ()>(()), false);
    }

    /// Starts the writer unless there is one, and waits until it has prepared itself. `last`: the process can't start threads
    /// afterwards.
    ///
    /// # Errors
    /// The preparation failed; there is no writer.
    pub(super) fn spawn_writer_after<E: Send + 'static>(
        &self,
        prepare: impl FnOnce() -> Result<(), E> + Send + 'static,
        last: bool,
    ) -> Result<(), E> {
        {
            let mut queue = self.shared.lock();
            let may_not = queue.has_writer || queue.no_more_threads;
            queue.no_more_threads |= last;
            if may_not {
                return Ok(());
            }
            queue.has_writer = true;
        }
        let (shared, write) = (Arc::clone(&self.shared), self.write);
        let (prepared, outcome) = mpsc::sync_channel(1);
        let spawned = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let outcome = prepare();
            let failed = outcome.is_err();
            // The other side waits for it.
            let _ = prepared.send(outcome);
            if !failed {
                shared.write_lines(write);
            }
        });
        // No thread could be created (RLIMIT_NPROC): retried by the next call, if there may be one.
        let outcome = spawned.map_err(drop).and_then(|_| outcome.recv().map_err(drop));
        if !matches!(outcome, Ok(Ok(()))) {
            self.shared.lock().has_writer = false;
        }
        outcome.unwrap_or(Ok(()))
    }

    /// Waits until all lines are written, at most for [`FLUSH_DEADLINE`].
    pub(super) fn flush(&self) {
        self.spawn_writer();
        let pending = |queue: &mut Queue| queue.has_writer && queue.written < queue.queued;
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
        queue.queued += 1;
        self.changed.notify_all();
        if queue.has_writer && !queue.blocked {
            let line = queue.queued;
            let waited = self.changed.wait_timeout_while(queue, WRITE_WAIT, |queue| queue.written < line);
            let (mut queue, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            queue.blocked |= timeout.timed_out();
        }
    }

    fn write_lines(&self, write: fn(&[u8])) {
        let mut queue = self.lock();
        loop {
            let Some(line) = queue.lines.pop_front() else {
                queue.blocked = false;
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            write(&line);
            queue = self.lock();
            queue.written += 1;
            queue.bytes -= line.len();
            self.changed.notify_all();
            if queue.dropped > 0 && queue.bytes <= MAX_QUEUED_BYTES / 2 {
                let dropped = std::mem::take(&mut queue.dropped);
                // The event below must not wait for this thread.
                queue.blocked = true;
                drop(queue);
                tracing::warn!(target: CONTROL, dropped, "the log was not read fast enough: lines were dropped");
                queue = self.lock();
            }
        }
    }
}

/// The writer of one event's line.
pub(super) struct Line(Arc<Shared>);

impl Write for Line {
    /// Queues one line: the formatter writes each event in a single call.
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
    fn a_full_queue_drops_and_counts_lines() {
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
        sink.line().write_all(b"at once").unwrap();
        assert_eq!(sink.shared.lock().written, 101, "written before the call returns");
        sink.line().write_all(b"block").unwrap();
        sink.line().write_all(b"behind it").unwrap();
        sink.flush();
        let queue = sink.shared.lock();
        assert_eq!((queue.lines.len(), queue.blocked), (1, true));
    }
}
