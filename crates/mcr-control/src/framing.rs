//! Cuts a stream of bytes into messages: JSON objects, each ended by a NUL byte (<https://varlink.org/Method-Call>).
//! Pure: bytes in, messages out, whatever way the bytes were split. Size and nesting are bounded while the bytes
//! arrive, so that a message that breaks a limit is refused before it is held in full.

use crate::method::Request;

/// What a message may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Bytes, without the NUL.
    pub bytes: usize,
    /// The same of a call that carries a config text. It has to begin with its method, by which it is known before it is
    /// held.
    pub config_bytes: usize,
    /// Arrays and objects inside each other.
    pub depth: usize,
}

/// Why the stream can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A message is too long.
    #[error("the message is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// A message nests too deep.
    #[error("the message nests deeper than {limit} arrays and objects")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A message does not begin with `{`.
    #[error("the message is not a JSON object")]
    NotAnObject,
}

/// The state between bytes.
#[derive(Debug)]
pub struct Decoder {
    limits: FrameLimits,
    buffer: Vec<u8>,
    /// How far the buffer has been scanned; no NUL before this.
    scanned: usize,
    scan: Scan,
    failed: Option<FramingError>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    depth: usize,
    begun: bool,
    in_string: bool,
    escaped: bool,
}

/// A buffer larger than this is given back after its message.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

impl Decoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, buffer: Vec::new(), scanned: 0, scan: Scan::default(), failed: None }
    }

    /// Takes bytes from the stream. Call [`Self::next_message`] until it has none left before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// How many bytes are held that no message was made of yet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message, without its NUL; `None` if more bytes are needed.
    ///
    /// # Errors
    /// A limit is broken. The stream can't be read on: every later call fails in the same way.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, FramingError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.find_end().inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = Vec::new();
        })
    }

    fn find_end(&mut self) -> Result<Option<Vec<u8>>, FramingError> {
        for index in self.scanned..self.buffer.len() {
            let Some(&byte) = self.buffer.get(index) else { break };
            if byte == 0 {
                return Ok(Some(self.take_message(index)));
            }
            if index == self.limits.bytes && !carries_config(&self.buffer) {
                return Err(FramingError::TooLong { limit: self.limits.bytes });
            }
            if index >= self.limits.config_bytes {
                return Err(FramingError::TooLong { limit: self.limits.config_bytes });
            }
            self.scan.step(byte, self.limits.depth)?;
        }
        self.scanned = self.buffer.len();
        Ok(None)
    }

    fn take_message(&mut self, end: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(end + 1);
        let mut message = std::mem::replace(&mut self.buffer, rest);
        message.truncate(end);
        self.scanned = 0;
        self.scan = Scan::default();
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        }
        message
    }
}

/// Whether a message begins as a call of a method with a config text.
fn carries_config(message: &[u8]) -> bool {
    let mut rest = message;
    [b"{".as_slice(), b"\"method\"", b":", b"\""].into_iter().all(|word| {
        let begun = rest.trim_ascii_start().strip_prefix(word);
        rest = begun.unwrap_or_default();
        begun.is_some()
    }) && Request::METHODS
        .iter()
        .filter(|method| method.carries_config)
        .any(|method| rest.strip_prefix(method.name.as_bytes()).is_some_and(|rest| rest.starts_with(b"\"")))
}

impl Scan {
    fn step(&mut self, byte: u8, max_depth: usize) -> Result<(), FramingError> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(());
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' => self.open(max_depth)?,
            _ if !self.begun => return Err(FramingError::NotAnObject),
            b'[' => self.open(max_depth)?,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            b'"' => self.in_string = true,
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, max_depth: usize) -> Result<(), FramingError> {
        self.begun = true;
        self.depth += 1;
        if self.depth > max_depth { Err(FramingError::TooDeep { limit: max_depth }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
