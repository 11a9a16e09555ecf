use proptest::prelude::*;

use super::*;

const LIMITS: FrameLimits = FrameLimits { bytes: 200, config_bytes: 1000, depth: 4 };

fn decode(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, FramingError> {
    let mut decoder = Decoder::new(LIMITS);
    let mut messages = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        while let Some(message) = decoder.next_message()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

#[test]
fn messages_are_cut_at_nul() {
    assert_eq!(decode(&[b"{}\0{\"a\":1}\0{\"b\""]).unwrap(), [b"{}".to_vec(), b"{\"a\":1}".to_vec()]);
    assert_eq!(decode(&[b"{\"a\"", b":1}", b"\0"]).unwrap(), [b"{\"a\":1}".to_vec()]);
    assert_eq!(decode(&[b"", b"\0"]).unwrap(), [b"".to_vec()]);
}

#[test]
fn length_is_bounded_before_the_end_is_seen() {
    let longest = [b"{\"".as_slice(), &[b'x'; 196], b"\"}"].concat();
    assert_eq!(longest.len(), 200);
    assert_eq!(decode(&[&longest, b"\0"]).unwrap().concat(), longest);
    let longer = [b"{\"".as_slice(), &[b'x'; 199]].concat();
    assert_eq!(decode(&[&longer]), Err(FramingError::TooLong { limit: 200 }));
}

#[test]
fn each_message_has_the_whole_length() {
    let message = [b"{\"".as_slice(), &[b'x'; 190], b"\"}\0"].concat();
    assert_eq!(decode(&[&message.repeat(5)]).unwrap().len(), 5);
}

#[test]
fn depth_is_bounded_and_strings_do_not_count() {
    assert!(decode(&[br#"{"a":[[{}]]}"#, b"\0"]).is_ok());
    assert_eq!(decode(&[br#"{"a":[[[["#]), Err(FramingError::TooDeep { limit: 4 }));
    assert!(decode(&[br#"{"a":"[[[[[[{{{{\"[[["}"#, b"\0"]).is_ok());
    let deep = [b"{\"a\":".as_slice(), &[b'['; 200_000]].concat();
    assert_eq!(decode(&[&deep]), Err(FramingError::TooDeep { limit: 4 }));
}

#[test]
fn other_values_are_refused_at_their_first_byte() {
    for text in ["[", "x", "\"", "7", " \n]", "GET / HTTP/1.1\r\n"] {
        assert_eq!(decode(&[text.as_bytes()]), Err(FramingError::NotAnObject), "{text}");
    }
}

#[test]
fn a_failed_stream_stays_failed_and_holds_nothing() {
    let mut decoder = Decoder::new(LIMITS);
    decoder.push(b"x");
    assert_eq!(decoder.next_message(), Err(FramingError::NotAnObject));
    decoder.push(b"{}\0");
    assert_eq!(decoder.next_message(), Err(FramingError::NotAnObject));
    assert_eq!(decoder.held(), 0);
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(("[a-z\\[\\{\"\\\\]{0,6}", any::<u8>()), 0..6).prop_map(|pairs| {
        let object: serde_json::Map<_, _> = pairs.into_iter().map(|(key, n)| (key, n.into())).collect();
        serde_json::to_vec(&object).unwrap()
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_messages(
        messages in prop::collection::vec(any_message(), 0..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|m| m.iter().copied().chain([0])).collect();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        places.extend([0, stream.len()]);
        places.sort_unstable();
        let chunks: Vec<&[u8]> = places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        prop_assert_eq!(decode(&chunks).unwrap(), messages);
    }

    #[test]
    fn garbage_gives_messages_or_an_error_within_the_limits(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
    ) {
        let mut decoder = Decoder::new(LIMITS);
        for chunk in &chunks {
            decoder.push(chunk);
            while let Ok(Some(message)) = decoder.next_message() {
                prop_assert!(message.len() <= LIMITS.bytes && !message.contains(&0));
            }
            prop_assert!(decoder.held() <= LIMITS.bytes);
        }
    }
}

#[test]
fn only_a_call_with_a_config_text_may_be_long_and_it_begins_with_its_method() {
    let message = |begin: &str, bytes: usize| {
        let mut decoder = Decoder::new(LIMITS);
        decoder.push(format!("{begin}{}", "x".repeat(bytes - begin.len())).as_bytes());
        decoder.next_message()
    };
    let fine = "{ \"method\" : \"io.mcr.Control.LoadConfig\", \"parameters\": {\"config\": \"";
    assert_eq!(message(fine, 1000), Ok(None));
    assert_eq!(message(fine, 1001), Err(FramingError::TooLong { limit: 1000 }));
    for other in [
        "{\"method\":\"io.mcr.Control.Ping\",\"a\":\"",
        "{\"method\":\"io.mcr.Control.LoadConfigs\",\"a\":\"",
        "{\"parameters\":{},\"method\":\"io.mcr.Control.LoadConfig\",\"a\":\"",
        "{\"",
    ] {
        assert_eq!(message(other, 200), Ok(None), "{other}");
        assert_eq!(message(other, 201), Err(FramingError::TooLong { limit: 200 }), "{other}");
    }
}
