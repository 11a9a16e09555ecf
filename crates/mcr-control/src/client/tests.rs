//! The client against servers that answer well, badly, or not at all.

use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::failure::FailureKind;
use crate::method::{GetStats, ListRules, Ping};

const PATIENT: Duration = Duration::from_secs(20);

/// A server for one connection that sends `bytes` after the first request and stays until the client leaves, or closes
/// at once.
fn answering(bytes: Vec<u8>, stay: bool) -> (PathBuf, thread::JoinHandle<Vec<u8>>) {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let name = format!("mcr-client-{}-{}.sock", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let unlink = path.clone();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::fs::remove_file(unlink).unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap_or(0) == 1 && byte[0] != 0 {
            request.push(byte[0]);
        }
        let _ = stream.write_all(&bytes);
        if stay {
            let _ = stream.read_to_end(&mut Vec::new());
        }
        request
    });
    (path, server)
}

#[test]
fn a_call_gets_its_reply() {
    let (path, server) = answering(b"{\"parameters\":{\"rules\":[]}}\0".to_vec(), true);
    let mut client = Client::connect(&path, PATIENT).unwrap();
    assert!(client.call(&ListRules {}).unwrap().rules.is_empty());
    drop(client);
    let request = server.join().unwrap();
    assert_eq!(request, br#"{"method":"io.mcr.Control.ListRules","parameters":{}}"#);
}

#[test]
fn a_stream_ends_with_the_last_reply() {
    let one = r#"{"parameters":{"rules":[],"workers":[],"drops":{},"skips":{}}"#;
    let bytes = format!("{one},\"continues\":true}}\0{one},\"continues\":true}}\0{one}}}\0");
    let (path, _server) = answering(bytes.into_bytes(), true);
    let mut client = Client::connect(&path, PATIENT).unwrap();
    let mut replies = 0;
    client
        .stream(&GetStats {}, |_| {
            replies += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(replies, 3);
}

#[test]
fn a_refusal_is_reported_with_its_hint() {
    let error = r#"{"error":"io.mcr.Control.PermissionDenied","parameters":{"message":"no","hint":"ask"}}"#;
    let (path, _server) = answering([error.as_bytes(), b"\0"].concat(), true);
    let error = Client::connect(&path, PATIENT).unwrap().call(&Ping {}).unwrap_err();
    let ClientError::Refused(CallError::Failure(failure)) = &error else { panic!("{error}") };
    assert_eq!((failure.kind, failure.hint.as_deref()), (FailureKind::PermissionDenied, Some("ask")));
    assert!(!error.is_unreachable());
}

#[test]
fn nobody_listening_silence_and_hanging_up_are_distinguished() {
    let error = Client::connect(Path::new("/nonexistent/mcrd.sock"), PATIENT).unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { .. }) && error.is_unreachable(), "{error}");

    let (path, _server) = answering(b"{\"parameters\":".to_vec(), true);
    let error = Client::connect(&path, Duration::from_millis(50)).unwrap().call(&Ping {}).unwrap_err();
    assert!(matches!(&error, ClientError::TimedOut(_)) && error.is_unreachable(), "{error}");

    let (path, _server) = answering(b"{\"parameters\":".to_vec(), false);
    let error = Client::connect(&path, PATIENT).unwrap().call(&Ping {}).unwrap_err();
    assert!(matches!(&error, ClientError::Closed) && error.is_unreachable(), "{error}");
}

#[test]
fn a_deep_or_wrong_reply_is_an_error() {
    let deep = [b"{\"parameters\":".as_slice(), &[b'['; 200_000]].concat();
    let (path, _server) = answering(deep, true);
    let error = Client::connect(&path, PATIENT).unwrap().call(&Ping {}).unwrap_err();
    assert!(matches!(error, ClientError::Framing(FramingError::TooDeep { .. })), "{error}");

    let (path, _server) = answering(b"{\"parameters\":{\"rules\":7}}\0".to_vec(), true);
    let error = Client::connect(&path, PATIENT).unwrap().call(&ListRules {}).unwrap_err();
    assert!(matches!(error, ClientError::Answer(_)), "{error}");
}

#[test]
fn a_huge_reply_is_refused_at_the_limit() {
    let huge = [b"{\"".as_slice(), &vec![b'x'; REPLY_LIMITS.bytes]].concat();
    let (path, _server) = answering(huge, true);
    let error = Client::connect(&path, PATIENT).unwrap().call(&Ping {}).unwrap_err();
    assert!(matches!(error, ClientError::Framing(FramingError::TooLong { .. })), "{error}");
}

#[test]
fn a_request_beyond_the_limit_is_not_sent() {
    let (path, _server) = answering(Vec::new(), true);
    let mut client = Client::connect(&path, PATIENT).unwrap();
    let error = client
        .call(&crate::method::CheckConfig { config: "x".repeat(MAX_REQUEST_BYTES).into() })
        .unwrap_err();
    assert!(matches!(error, ClientError::TooLong(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (path, server) = answering(bytes, false);
        let answer = Client::connect(&path, PATIENT).unwrap().call(&ListRules {});
        prop_assert!(answer.is_err());
        server.join().unwrap();
    }
}
