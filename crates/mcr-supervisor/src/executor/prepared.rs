//! Capture sockets prepared in advance: making one unable to send waits 4 to 24 ms for the kernel, which the main loop must not.
//! A thread keeps some ready. When a batch of actions opens more, all that are missing are prepared at the same time, in one such
//! wait.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use mcr_rules::log::WORKERS;
use mcr_sys::packet::PreparedSocket;

/// Number of sockets kept ready: what a rule with a new input interface needs, or with two.
const SPARE: usize = 2;
/// Maximum number of threads that prepare sockets at the same time.
const MAX_THREADS: usize = 64;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct PreparedSockets {
    ready: Vec<PreparedSocket>,
    /// Requested and not arrived yet.
    under_way: usize,
    arriving: (Sender<Option<PreparedSocket>>, Receiver<Option<PreparedSocket>>),
}

impl PreparedSockets {
    pub(super) fn new() -> Self {
        Self { ready: Vec::new(), under_way: 0, arriving: channel() }
    }

    /// Takes a socket; prepares one if none is ready.
    pub(super) fn take(&mut self) -> mcr_sys::Result<PreparedSocket> {
        self.receive();
        self.ready.pop().map_or_else(PreparedSocket::new, Ok)
    }

    /// Makes sure that this number of sockets can be taken at once. Waits for the kernel if it is more than are kept ready.
    pub(super) fn provide(&mut self, count: usize) {
        self.receive();
        let missing = count.saturating_sub(self.ready.len());
        // Those under way may take as long as new ones.
        let threads = missing.min(MAX_THREADS);
        let prepared: Vec<PreparedSocket> = thread::scope(|scope| {
            let share = |thread: usize| (thread..missing).step_by(threads.max(1)).count();
            let workers: Vec<_> = (0..threads)
                .map(share)
                .map(|share| {
                    scope.spawn(move || {
                        // A failure is told when the socket is missing.
                        (0..share).filter_map(|_| PreparedSocket::new().ok()).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
        });
        self.ready.extend(prepared);
    }

    /// Starts to prepare what is missing of the spare ones.
    pub(super) fn refill(&mut self) {
        self.receive();
        let missing = SPARE.saturating_sub(self.ready.len() + self.under_way);
        for _ in 0..missing {
            let arriving = self.arriving.0.clone();
            let prepare = move || {
                // The receiver is gone when the daemon ends.
                let _ = arriving.send(PreparedSocket::new().ok());
            };
            match thread::Builder::new().name("capture".to_owned()).spawn(prepare) {
                Ok(_) => self.under_way += 1,
                Err(error) => tracing::debug!(target: WORKERS, %error, "no capture socket is prepared"),
            }
        }
    }

    /// All sockets, to be closed.
    pub(super) fn drain(&mut self) -> Vec<PreparedSocket> {
        self.receive();
        std::mem::take(&mut self.ready)
    }

    fn receive(&mut self) {
        for arrived in self.arriving.1.try_iter() {
            self.under_way -= 1;
            self.ready.extend(arrived);
        }
    }
}
