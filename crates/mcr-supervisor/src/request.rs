//! Calls on their way from the control server to the daemon's loop, and the answers on their way back.
//!
//! ```text
//!   control server ── Envelope (bounded mpsc) ──▶ daemon loop ── Call<M> ──▶ handler of the method M
//!   (one task per      ◀── Outcome (oneshot) ───────────────────────────────┘
//!    connection)
//! ```

use std::marker::PhantomData;
use std::sync::Arc;

use mcr_control::event::Event;
use mcr_control::failure::Failure;
use mcr_control::message::{ReplyBody, encode_reply};
use mcr_control::method::{Method, Request, Right, Subscribe, Weight};
use mcr_sys::credentials::Peer;
use tokio::sync::{broadcast, oneshot};

/// Number of requests that may wait for the loop; more connections wait in their own task.
pub(crate) const MAX_WAITING_REQUESTS: usize = 64;

/// What is called: a method of the interface, or the fault injection of tests.
#[derive(Clone, Debug)]
pub(crate) enum Called {
    /// A method of `io.mcr.Control`.
    Method(Request),
    /// Injects a fault into workers. Not in release builds.
    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    Fault {
        /// All workers of this interface.
        interface: mcr_rules::InterfaceName,
        /// Which fault.
        fault: mcr_link::message::Fault,
    },
}

impl Called {
    /// How much of the loop it takes.
    #[must_use]
    pub(crate) fn weight(&self) -> Weight {
        match self {
            Self::Method(request) => request.weight(),
            #[cfg(any(debug_assertions, feature = "fault-injection"))]
            Self::Fault { .. } => Weight::Light,
        }
    }

    /// Whether it replies again and again to a client that wants more.
    #[must_use]
    pub(crate) fn repeats(&self) -> bool {
        matches!(self, Self::Method(request) if request.repeats())
    }
}

/// A request on its way to the loop.
pub(crate) struct Envelope {
    /// What is called.
    pub(crate) called: Called,
    /// Who waits for the answer.
    pub(crate) pending: Pending,
}

/// A client that waits.
pub(crate) struct Pending {
    /// Who it is, for the log.
    pub(crate) peer: Peer,
    /// What it may do.
    pub(crate) right: Right,
    answer: oneshot::Sender<Outcome>,
}

impl Pending {
    /// A client that waits at the other end of this channel.
    #[must_use]
    pub(crate) fn new(peer: Peer, right: Right) -> (Self, oneshot::Receiver<Outcome>) {
        let (answer, answered) = oneshot::channel();
        (Self { peer, right, answer }, answered)
    }

    /// Sends the answer; a client that has left is no error.
    pub(crate) fn answer<R: ReplyBody>(self, result: Result<R, Failure>) {
        self.send(result.map(|reply| Answer::Reply(Box::new(reply))));
    }

    /// Sends why there is no reply.
    pub(crate) fn refuse(self, failure: Failure) {
        self.send(Err(failure));
    }

    fn send(self, outcome: Outcome) {
        let _ = self.answer.send(outcome);
    }
}

/// A call of the method `M`: takes its reply and no other.
pub(crate) struct Call<M> {
    pending: Pending,
    method: PhantomData<fn(M)>,
}

impl<M> From<Pending> for Call<M> {
    fn from(pending: Pending) -> Self {
        Self { pending, method: PhantomData }
    }
}

impl<M: Method> Call<M> {
    /// Who calls, for the log.
    #[must_use]
    pub(crate) fn peer(&self) -> &Peer {
        &self.pending.peer
    }

    /// What the caller may do.
    #[must_use]
    pub(crate) fn right(&self) -> Right {
        self.pending.right
    }

    /// Sends the answer.
    pub(crate) fn answer(self, result: Result<M::Reply, Failure>) {
        self.pending.answer(result);
    }
}

impl Call<Subscribe> {
    /// Answers with all events that come from here.
    pub(crate) fn subscribed(self, events: broadcast::Receiver<Arc<Event>>) {
        self.pending.send(Ok(Answer::Events(events)));
    }
}

/// What a successful call leads to.
pub(crate) enum Answer {
    /// A reply.
    Reply(Box<dyn AnyReply>),
    /// Where events come from.
    Events(broadcast::Receiver<Arc<Event>>),
}

/// An answer, or why there is none.
pub(crate) type Outcome = Result<Answer, Failure>;

/// A reply whose method is not known to the type.
pub(crate) trait AnyReply: Send {
    /// Its bytes on the wire.
    ///
    /// # Errors
    /// The value can't be written as JSON.
    fn encode(&self, continues: bool) -> Result<Vec<u8>, serde_json::Error>;

    /// See [`ReplyBody::items`].
    fn item_count(&self) -> usize;
}

impl<R: ReplyBody> AnyReply for R {
    fn encode(&self, continues: bool) -> Result<Vec<u8>, serde_json::Error> {
        encode_reply(self, continues)
    }

    fn item_count(&self) -> usize {
        self.items()
    }
}
