//! MoldUDP64 1.00 (Nasdaq): the header of a downstream packet.
//!
//! ```text
//!  session, 10 bytes │ number of the first message, 8 │ count, 2 │ count × (length, 2 │ message)
//! ```
//!
//! All numbers are big-endian. A count of 0 is a heartbeat with the number of the next message, 0xffff the end of the session.

/// Bytes of the header.
const HEADER_BYTES: usize = 20;
/// The count that ends a session.
const END: u16 = 0xffff;

/// What a packet consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoldContent {
    /// This many messages.
    Messages(u16),
    /// None: a heartbeat.
    Heartbeat,
    /// None: the session ends.
    End,
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoldHeader {
    /// The session, not necessarily text.
    pub session: [u8; 10],
    /// The number of the first message, or of the next one if there is none.
    pub sequence: u64,
    /// What follows.
    pub content: MoldContent,
}

/// Parses a packet. `None` if it is truncated, or the lengths of its messages do not add up.
#[must_use]
pub fn parse_mold(packet: &[u8]) -> Option<MoldHeader> {
    let (header, mut messages) = packet.split_first_chunk::<HEADER_BYTES>()?;
    let session = *header.first_chunk()?;
    let sequence = u64::from_be_bytes(*header.get(10..)?.first_chunk()?);
    let count = u16::from_be_bytes(*header.get(18..)?.first_chunk()?);
    let content = match count {
        0 => MoldContent::Heartbeat,
        END => MoldContent::End,
        count => {
            for _ in 0..count {
                let (length, rest) = messages.split_first_chunk()?;
                messages = rest.get(usize::from(u16::from_be_bytes(*length))..)?;
            }
            MoldContent::Messages(count)
        }
    };
    messages.is_empty().then_some(MoldHeader { session, sequence, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u64, count: u16, messages: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"SESSION 01".to_vec();
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(count.to_be_bytes());
        for message in messages {
            bytes.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
            bytes.extend(*message);
        }
        bytes
    }

    #[test]
    fn packets_are_told_apart() {
        for (bytes, content) in [
            (packet(7, 2, &[b"abc", b""]), Some(MoldContent::Messages(2))),
            (packet(7, 0, &[]), Some(MoldContent::Heartbeat)),
            (packet(7, 0xffff, &[]), Some(MoldContent::End)),
            (packet(7, 1, &[b"abc", b"d"]), None),
            (packet(7, 3, &[b"abc", b"d"]), None),
            (packet(7, 0, &[b""]), None),
            (packet(7, 1, &[b"abc"])[..23].to_vec(), None),
            (b"short".to_vec(), None),
        ] {
            let found = parse_mold(&bytes);
            assert_eq!(found.map(|header| header.content), content, "{bytes:?}");
            assert!(found.is_none_or(|h| h.sequence == 7 && h.session == *b"SESSION 01"));
        }
    }
}
