//! The operator protocol: one byte says how the stream is cut, the rest is the stream.

use mcr_control::framing::{Decoder, FrameLimits, FramingError};
use mcr_control::message::{Call, CallError, Parameters, Reply, encode};
use serde_json::Value;

/// Small limits, so that short inputs reach them.
const LIMITS: FrameLimits = FrameLimits { bytes: 512, config_bytes: 512, depth: 8 };

/// Asserts the property.
///
/// # Panics
/// It does not hold.
pub fn check(data: &[u8]) {
    let [cut, stream @ ..] = data else { return };
    let whole = decode(stream, stream.len().max(1));
    assert_eq!(decode(stream, usize::from(*cut).max(1)), whole, "cut into pieces of {cut}");
    for message in &whole.0 {
        assert!(message.len() <= LIMITS.bytes && !message.contains(&0));
        if let Ok(call) = Call::parse(message)
            && !has_fraction(&call.parameters)
        {
            let written = encode(&call).expect("a call can be written");
            let (bytes, end) = written.split_at(written.len() - 1);
            assert_eq!((Call::parse(bytes).expect("what was written"), end), (call.clone(), &b"\0"[..]));
            if let Some(rule) = call.parameters.get("rule") {
                // Refused or not, it ends.
                let _ = mcr_rules::file::parse_rule(rule);
            }
        }
        if let Ok(reply) = Reply::parse(message)
            && !has_fraction(&reply.parameters)
        {
            let written = encode(&reply).expect("a reply can be written");
            assert_eq!(Reply::parse(&written[..written.len() - 1]).expect("what was written"), reply);
            if let Some(error) = CallError::from_reply(&reply) {
                let again = CallError::from_reply(&error.clone().into_reply());
                assert_eq!(again, Some(error));
            }
        }
    }
}

/// Whether a number is there that is read with the last digit off: `serde_json` trades that for speed. Of ours only rates
/// for people have fractions.
fn has_fraction(parameters: &Parameters) -> bool {
    fn within(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.is_f64(),
            Value::Array(values) => values.iter().any(within),
            Value::Object(fields) => fields.values().any(within),
            _ => false,
        }
    }
    parameters.values().any(within)
}

fn decode(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<FramingError>) {
    let mut decoder = Decoder::new(LIMITS);
    let mut messages = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.push(bytes);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(decoder.held() <= LIMITS.bytes + 1, "{} bytes are held", decoder.held());
    }
    (messages, None)
}
