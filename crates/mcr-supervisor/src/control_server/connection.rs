//! The task of one client: reads a call, waits for the answer, writes the reply; one after another.

use std::os::fd::AsFd;
use std::sync::Arc;

use mcr_control::event::{Event, EventKind, EventReply};
use mcr_control::failure::{Failure, FailureKind};
use mcr_control::framing::Decoder;
use mcr_control::message::{Call, CallError, Reply, encode, encode_reply};
use mcr_control::method::Right;
use mcr_rules::log::CONTROL;
use mcr_sys::credentials::Peer;
use mcr_sys::credentials::{Received, receive_without_descriptors};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Shared;
use super::budget::Claim;
use super::dispatch::{Step, dispatch};
use super::slots::ConnectionId;
use crate::event_bus::now;
use crate::request::{Answer, AnyReply, Called, Envelope, Pending};

/// Bytes per read.
const CHUNK_BYTES: usize = 16 * 1024;

/// Receives the next bytes, and whether the client passed descriptors, which the kernel has closed.
async fn receive(stream: &UnixStream, chunk: &mut [u8]) -> std::io::Result<Received> {
    loop {
        stream.readable().await?;
        let read = stream.try_io(Interest::READABLE, || receive_without_descriptors(stream.as_fd(), chunk));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// One client.
pub(super) struct Connection {
    shared: Arc<Shared>,
    id: ConnectionId,
    stream: UnixStream,
    peer: Peer,
    right: Right,
    decoder: Decoder,
    /// Its share of [`Shared::request_bytes`].
    held: Claim,
}

struct End;

type Going = Result<(), End>;

/// A call without its parameters, which have become a request.
struct CallHead {
    method: String,
    oneway: bool,
    more: bool,
}

/// A call with the step or the refusal that results; or why it is not a call.
type Understood = Result<(CallHead, Result<Step, CallError>), String>;

fn understand(message: &[u8], right: Right) -> Understood {
    let call = Call::parse(message).map_err(|error| error.to_string())?;
    let head = CallHead { method: call.method.clone(), oneway: call.oneway, more: call.more };
    Ok((head, dispatch(call, right)))
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.slots().release(self.id);
    }
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: ConnectionId,
        stream: UnixStream,
        peer: Peer,
        right: Right,
    ) -> Self {
        let held = shared.request_bytes.claim();
        let limits = match right {
            Right::Nothing => shared.limits.request_without_rights,
            Right::Read => shared.limits.request_of_reader,
            Right::Change | Right::Own => shared.limits.request,
        };
        Self { shared, id, stream, peer, right, decoder: Decoder::new(limits), held }
    }

    /// Serves the client until it disconnects or violates a limit.
    pub(super) async fn run(mut self) {
        while let Ok(Some(message)) = self.read_message().await {
            self.shared.slots().set_busy(self.id, true);
            let going = self.serve(message).await;
            self.held.release();
            self.shared.slots().set_busy(self.id, false);
            // A user without rights gets one refusal; keeping the connection would only take a slot.
            if going.is_err() || self.right == Right::Nothing {
                break;
            }
        }
    }

    /// Reads the next message; `None` when the client has disconnected.
    async fn read_message(&mut self) -> Result<Option<Vec<u8>>, End> {
        let mut deadline = (self.right == Right::Nothing).then(|| self.request_deadline());
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(error) => return self.give_up(error.to_string()).await,
            }
            let held = self.decoder.held();
            if held > self.shared.limits.large_message_bytes && !self.held.resize(held) {
                return self.give_up("mcrd holds too many large requests at this moment".to_owned()).await;
            }
            if self.decoder.held() > 0 && deadline.is_none() {
                deadline = Some(self.request_deadline());
            }
            let read = receive(&self.stream, &mut chunk);
            let read = match deadline {
                None => read.await,
                Some(deadline) => match timeout_at(deadline, read).await {
                    Ok(read) => read,
                    Err(_) => {
                        let limit = self.shared.limits.request_deadline.as_secs_f32();
                        return self.give_up(format!("the request is not complete after {limit} s")).await;
                    }
                },
            };
            match read {
                Ok(Received { descriptors: true, .. }) => {
                    return self.give_up("descriptors are not taken".to_owned()).await;
                }
                Ok(Received { bytes: 0, .. }) | Err(_) => return Ok(None),
                Ok(Received { bytes, .. }) => self.decoder.push(chunk.get(..bytes).unwrap_or_default()),
            }
        }
    }

    fn request_deadline(&self) -> Instant {
        Instant::now() + self.shared.limits.request_deadline
    }

    /// Handles one message.
    async fn serve(&mut self, message: Vec<u8>) -> Going {
        let (call, step): (CallHead, _) = match self.understand(message).await {
            Ok(understood) => understood,
            Err(error) => {
                self.give_up(format!("the message is not a call: {error}")).await?;
                return Err(End);
            }
        };
        let CallHead { method, oneway, more } = call;
        match step {
            Ok(Step::Answered(_)) if oneway => Ok(()),
            Ok(Step::Answered(reply)) => self.small_reply(reply).await,
            Ok(Step::Ask(called)) if more && !oneway && called.repeats() => self.watch(called).await,
            Ok(Step::Ask(called)) => {
                tracing::debug!(target: CONTROL, uid = self.peer.uid, pid = self.peer.pid, "{method}");
                match self.ask(called).await {
                    _ if oneway => Ok(()),
                    Ok(Answer::Events(events)) => self.events(events, more).await,
                    Ok(Answer::Reply(reply)) => self.reply(reply, false).await,
                    Err(error) => self.small_reply(error.into_reply()).await,
                }
            }
            Err(error) => {
                if matches!(&error, CallError::Failure(f) if f.kind == FailureKind::PermissionDenied) {
                    let shown: String = method.chars().take(80).collect();
                    self.shared.log_refusal(&self.peer, &format!("no right to call {shown:?}"));
                }
                if oneway { Ok(()) } else { self.small_reply(error.into_reply()).await }
            }
        }
    }

    /// Parses a message: a small one here, a large one off the loop's thread, since that takes longer.
    async fn understand(&self, message: Vec<u8>) -> Understood {
        let right = self.right;
        if message.len() <= self.shared.limits.large_message_bytes {
            return understand(&message, right);
        }
        let _turn = self.shared.conversions.acquire().await;
        tokio::task::spawn_blocking(move || understand(&message, right))
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn ask(&self, called: Called) -> Result<Answer, CallError> {
        let (pending, answered) = Pending::new(self.peer.clone(), self.right);
        let envelope = Envelope { called, pending };
        let unavailable = |message: String| CallError::from(Failure::new(FailureKind::Unavailable, message));
        let exchange = async {
            self.shared.requests.send(envelope).await.ok()?;
            answered.await.ok()
        };
        let limit = self.shared.limits.answer_deadline;
        match timeout(limit, exchange).await {
            Ok(Some(answer)) => Ok(answer?),
            Ok(None) => Err(unavailable("mcrd is about to end".to_owned())),
            Err(_) => Err(unavailable(format!(
                "mcrd did not finish this within {} s; it may still do so",
                limit.as_secs_f32()
            ))),
        }
    }

    /// Replies repeatedly until the client disconnects, or the daemon refuses.
    async fn watch(&mut self, called: Called) -> Going {
        loop {
            match self.ask(called.clone()).await {
                Ok(Answer::Reply(reply)) => self.reply(reply, true).await?,
                Ok(Answer::Events(_)) => return Err(End),
                Err(error) => return self.small_reply(error.into_reply()).await,
            }
            // A disconnect is noticed at the next write.
            sleep(self.shared.limits.stats_interval).await;
        }
    }

    /// Sends events until the client disconnects, or only the first one.
    async fn events(&mut self, mut events: Receiver<Arc<Event>>, more: bool) -> Going {
        self.event(&now(Event::new(EventKind::Subscribed, "events from now on")), more).await?;
        if !more {
            return Ok(());
        }
        loop {
            let event = match timeout(self.shared.limits.alive_interval, events.recv()).await {
                Ok(Ok(event)) => event,
                Ok(Err(RecvError::Lagged(count))) => {
                    let words = format!("{count} events were left out: the client reads too slowly");
                    Arc::new(now(Event { count: Some(count), ..Event::new(EventKind::Missed, words) }))
                }
                // The daemon is shutting down.
                Ok(Err(RecvError::Closed)) => return Err(End),
                Err(_) => Arc::new(now(Event::new(EventKind::Alive, "nothing happened"))),
            };
            self.event(&event, true).await?;
        }
    }

    async fn event(&mut self, event: &Event, continues: bool) -> Going {
        let bytes = encode_reply(&EventReply { event: event.clone() }, continues).map_err(|_| End)?;
        self.write(bytes).await
    }

    /// Writes a reply; a large one is encoded off the loop's thread.
    async fn reply(&mut self, reply: Box<dyn AnyReply>, continues: bool) -> Going {
        let small = reply.item_count() <= self.shared.limits.large_reply_items;
        let encode = move || reply.encode(continues).map_err(|_| End);
        let bytes = if small {
            encode()?
        } else {
            let _turn = self.shared.conversions.acquire().await;
            tokio::task::spawn_blocking(encode).await.unwrap_or(Err(End))?
        };
        self.write(bytes).await
    }

    /// Writes a small reply.
    async fn small_reply(&mut self, reply: Reply) -> Going {
        let bytes = encode(&reply).map_err(|_| End)?;
        self.write(bytes).await
    }

    async fn write(&mut self, mut bytes: Vec<u8>) -> Going {
        let mut unread = self.shared.reply_bytes.claim();
        if bytes.len() > self.shared.limits.large_message_bytes && !unread.resize(bytes.len()) {
            let failure = Failure::new(FailureKind::Unavailable, "too many large answers wait to be read");
            bytes = encode(&CallError::from(failure).into_reply()).map_err(|_| End)?;
        }
        match timeout(self.shared.limits.write_deadline, self.stream.write_all(&bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End),
            Err(_) => {
                self.shared.log_refusal(&self.peer, "the client does not read its reply");
                Err(End)
            }
        }
    }

    /// Replies why the bytes are not a request, and ends the connection.
    async fn give_up<T>(&mut self, why: String) -> Result<T, End> {
        self.shared.log_refusal(&self.peer, &why);
        let failure = Failure::new(FailureKind::BadRequest, why);
        self.small_reply(CallError::from(failure).into_reply()).await?;
        Err(End)
    }
}
