//! Calls from the control server to the daemon's loop, and their answers.
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

/// Number of requests queued for the loop; more wait in their connections' tasks.
pub(crate) const MAX_WAITING_REQUESTS: usize = 64;

/// The call: a method of the interface, or the fault injection of tests.
#[derive(Clone, Debug)]
pub(crate) enum Called {
    /// A method of `io.mcr.Control`.
    Method(Request),
    /// Injects a fault into workers. Not in release builds.
    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    Fault {
        /// All workers of this interface.
        interface: mcr_rules::InterfaceName,
        fault: mcr_link::message::Fault,
    },
}

impl Called {
    /// How much of the loop's time it takes.
    pub(crate) fn weight(&self) -> Weight {
        match self {
            Self::Method(request) => request.weight(),
            #[cfg(any(debug_assertions, feature = "fault-injection"))]
            Self::Fault { .. } => Weight::Light,
        }
    }

    /// Whether it sends repeated replies to a client that asks for `more`.
    pub(crate) fn repeats(&self) -> bool {
        matches!(self, Self::Method(request) if request.repeats())
    }
}

/// A request to the loop.
pub(crate) struct Envelope {
    pub(crate) called: Called,
    /// The client that waits for the answer.
    pub(crate) pending: Pending,
}

/// A client that waits for an answer.
pub(crate) struct Pending {
    /// Its credentials, for the log.
    pub(crate) peer: Peer,
    pub(crate) right: Right,
    answer: oneshot::Sender<Outcome>,
}

impl Pending {
    /// Creates a pending answer and its receiver.
    pub(crate) fn new(peer: Peer, right: Right) -> (Self, oneshot::Receiver<Outcome>) {
        let (answer, answered) = oneshot::channel();
        (Self { peer, right, answer }, answered)
    }

    /// Sends the answer; a disconnected client is not an error.
    pub(crate) fn answer<R: ReplyBody>(self, result: Result<R, Failure>) {
        self.send(result.map(|reply| Answer::Reply(Box::new(reply))));
    }

    pub(crate) fn refuse(self, failure: Failure) {
        self.send(Err(failure));
    }

    fn send(self, outcome: Outcome) {
        let _ = self.answer.send(outcome);
    }
}

/// A call of the method `M`, which accepts only the reply of that method.
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
    /// Returns the caller's credentials, for the log.
    pub(crate) fn peer(&self) -> &Peer {
        &self.pending.peer
    }

    /// Returns the caller's right.
    pub(crate) fn right(&self) -> Right {
        self.pending.right
    }

    pub(crate) fn answer(self, result: Result<M::Reply, Failure>) {
        self.pending.answer(result);
    }
}

impl Call<Subscribe> {
    /// Answers with the events from this channel.
    pub(crate) fn subscribed(self, events: broadcast::Receiver<Arc<Event>>) {
        self.pending.send(Ok(Answer::Events(events)));
    }
}

/// The result of a successful call.
pub(crate) enum Answer {
    Reply(Box<dyn AnyReply>),
    Events(broadcast::Receiver<Arc<Event>>),
}

pub(crate) type Outcome = Result<Answer, Failure>;

/// A type-erased reply.
pub(crate) trait AnyReply: Send {
    /// Encodes it for the wire.
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
