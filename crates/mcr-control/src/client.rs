//! A blocking client with deadlines, for `mcrctl` and for tests.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::framing::{Decoder, FramingError};
use crate::message::{Call, CallError, Parameters, Reply, encode};
use crate::method::{GetStatus, GetVersion, Method, VersionReply};
use crate::reply::StatusReply;
use crate::{MAX_REQUEST_BYTES, PROTOCOL_VERSION, REPLY_LIMITS};

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
    timeout: Duration,
}

/// Why a call gave no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the socket can't be reached.
    #[error("can't reach mcrd on {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No reply in time.
    #[error("mcrd gave no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The connection ended before the reply.
    #[error("mcrd closed the connection without an answer")]
    Closed,
    /// The connection failed.
    #[error("the connection to mcrd failed: {0}")]
    Connection(#[source] io::Error),
    /// The call can't be made: it is longer than the daemon takes.
    #[error("the request has {0} bytes; mcrd takes {MAX_REQUEST_BYTES} at most")]
    TooLong(usize),
    /// What came is not a stream of messages.
    #[error("mcrd's answer can't be read: {0}")]
    Framing(#[from] FramingError),
    /// What came is not the reply of this method.
    #[error("mcrd's answer can't be understood: {0}")]
    Answer(#[source] serde_json::Error),
    /// The parameters can't be written as JSON.
    #[error("the request can't be written: {0}")]
    Request(#[source] serde_json::Error),
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] CallError),
}

impl ClientError {
    /// Whether the daemon could not be reached, or did not answer.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut(_) | Self::Closed | Self::Connection(_))
    }
}

impl Client {
    /// Connects. Each step from here on (connecting, and each call) takes `timeout` at most.
    ///
    /// # Errors
    /// Nobody listens there, or not in time.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        let stream = connect_within(path, timeout).map_err(unreachable)?;
        Ok(Self { stream, decoder: Decoder::new(REPLY_LIMITS), timeout })
    }

    /// Asks for the daemon's version, telling our own.
    ///
    /// # Errors
    /// As [`Self::call`]; the daemon refuses another major version of the protocol.
    pub fn version(&mut self) -> Result<VersionReply, ClientError> {
        self.call(&GetVersion { protocol: Some(PROTOCOL_VERSION.to_owned()) })
    }

    /// Asks for what an operator should know; nothing if the daemon is too old to tell.
    pub fn status(&mut self) -> Result<StatusReply, ClientError> {
        match self.call(&GetStatus {}) {
            Err(ClientError::Refused(CallError::MethodNotFound { .. })) => Ok(StatusReply::default()),
            other => other,
        }
    }

    /// Calls a method and waits for its reply.
    ///
    /// # Errors
    /// The daemon refuses, does not answer in time, or answers with what is no reply of this method.
    pub fn call<M: Method>(&mut self, method: &M) -> Result<M::Reply, ClientError> {
        let reply = self.call_raw(M::NAME, method.parameters().map_err(ClientError::Request)?)?;
        serde_json::from_value(Value::Object(reply.parameters)).map_err(ClientError::Answer)
    }

    /// Calls any method by name.
    pub fn call_raw(&mut self, method: &str, parameters: Parameters) -> Result<Reply, ClientError> {
        let deadline = self.deadline();
        self.send(method, parameters, false, deadline)?;
        self.receive(deadline)
    }

    /// Calls a method with `more` and hands over each reply, until there are no more or `take` breaks off. Each reply
    /// may take the whole timeout.
    pub fn stream<M: Method>(
        &mut self,
        method: &M,
        mut take: impl FnMut(M::Reply) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let parameters = method.parameters().map_err(ClientError::Request)?;
        self.send(M::NAME, parameters, true, self.deadline())?;
        loop {
            let reply = self.receive(self.deadline())?;
            let value =
                serde_json::from_value(Value::Object(reply.parameters)).map_err(ClientError::Answer)?;
            if take(value).is_break() || !reply.continues {
                return Ok(());
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the client waits for another process")]
    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    #[expect(clippy::disallowed_methods, reason = "the client waits for another process")]
    fn left(&self, deadline: Instant) -> Result<Duration, ClientError> {
        Some(deadline.saturating_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
            .ok_or(ClientError::TimedOut(self.timeout))
    }

    fn send(
        &mut self,
        method: &str,
        parameters: Parameters,
        more: bool,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let call = Call { method: method.to_owned(), parameters, more, ..Call::default() };
        let bytes = encode(&call).map_err(ClientError::Request)?;
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(ClientError::TooLong(bytes.len()));
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let left = self.left(deadline)?;
            self.stream.set_write_timeout(Some(left)).map_err(ClientError::Connection)?;
            match self.stream.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if retry(&error) => {}
                // The daemon may have refused before it read everything: its reply tells why.
                Err(error) if gone(&error) => return Ok(()),
                Err(error) => return Err(ClientError::Connection(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<Reply, ClientError> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(message) = self.decoder.next_message()? {
                let reply = Reply::parse(&message).map_err(ClientError::Answer)?;
                return CallError::from_reply(&reply).map_or(Ok(reply), |error| Err(error.into()));
            }
            let left = self.left(deadline)?;
            self.stream.set_read_timeout(Some(left)).map_err(ClientError::Connection)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(bytes) => self.decoder.push(chunk.get(..bytes).unwrap_or_default()),
                Err(error) if retry(&error) => {}
                Err(error) if gone(&error) => return Err(ClientError::Closed),
                Err(error) => return Err(ClientError::Connection(error)),
            }
        }
    }
}

/// A timeout shows as `WouldBlock`; the deadline is checked before the next attempt.
fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// connect(2) blocks while the daemon's backlog is full and has no deadline of its own, so it waits in a thread, which
/// ends with the connection or with the program.
fn connect_within(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    thread::Builder::new().name("connect".to_owned()).spawn(move || {
        // Nobody takes the result after the deadline; then the connection is closed here.
        let _ = sender.send(UnixStream::connect(path));
    })?;
    receiver.recv_timeout(timeout).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests;
