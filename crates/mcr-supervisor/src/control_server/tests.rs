//! The server against real clients on a real socket; the test plays the daemon's loop.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mcr_control::client::{Client, ClientError};
use mcr_control::failure::FailureKind;
use mcr_control::message::CallError;
use mcr_control::method::{
    CheckConfig, CheckReply, ConfigReply, GetConfig, GetStats, Ping, Request, VersionReply,
};
use mcr_control::reply::{Done, StatsReply};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::request::Called;

const PATIENT: Duration = Duration::from_secs(20);
/// Shorter than any deadline, longer than any answer takes.
const SHORT: Duration = Duration::from_millis(300);

/// A server in its own thread, whose loop answers everything but `GetConfig` at once; `GetConfig` gets a text of the
/// given length, or no answer if that is `None`.
struct Server {
    directory: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(limits: ServerLimits, config_bytes: Option<usize>) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("mcr-server-{}-{serial}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        let socket = ControlSocket::bind(&directory.join("mcrd.sock")).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let own = credentials::peer(StdStream::pair().unwrap().0.as_fd()).unwrap().uid;
                let access = Access { own_uid: own, change_gid: None, observers_gid: None };
                let (sender, receiver) = mpsc::channel(4);
                tokio::select! {
                    end = serve(socket, access, limits, sender) => panic!("{end:?}"),
                    () = answer(receiver, config_bytes) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { directory, stop: Some(stop), thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("mcrd.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path(), PATIENT).unwrap()
    }

    fn raw(&self) -> StdStream {
        let stream = StdStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
        let left = self.path().exists();
        std::fs::remove_dir_all(&self.directory).unwrap();
        assert!(!left, "the socket file stayed");
    }
}

async fn answer(mut requests: mpsc::Receiver<Envelope>, config_bytes: Option<usize>) {
    let mut unanswered = Vec::new();
    while let Some(Envelope { called, pending }) = requests.recv().await {
        let Called::Method(request) = called else { panic!("{called:?}") };
        match (request, config_bytes) {
            (Request::GetConfig(_), Some(bytes)) => {
                pending.answer(Ok(ConfigReply { config: "x".repeat(bytes) }));
            }
            (Request::GetConfig(_), None) => unanswered.push(pending),
            (Request::GetStats(_), _) => pending.answer(Ok(StatsReply::default())),
            (Request::CheckConfig(_), _) => pending.answer(Ok(CheckReply { rules: 0, errors: Vec::new() })),
            (Request::GetVersion(_), _) => {
                let protocol = mcr_control::PROTOCOL_VERSION.to_owned();
                pending.answer(Ok(VersionReply { mcrd: "1".to_owned(), protocol }));
            }
            _ => pending.answer(Ok(Done {})),
        }
    }
}

/// Reads until the server closes the connection.
fn read_all(stream: &mut StdStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn assert_bad_request(stream: &mut StdStream, what: &str) {
    let told = read_all(stream);
    assert!(told.contains("io.mcr.Control.BadRequest") && told.contains(what), "{told:?} lacks {what:?}");
}

fn write(path: &Path, bytes: &[u8]) -> StdStream {
    let mut stream = StdStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn calls_are_answered_one_after_another_on_one_connection() {
    let server = Server::start(ServerLimits::default(), Some(10));
    let mut client = server.client();
    assert_eq!(client.version().unwrap().protocol, mcr_control::PROTOCOL_VERSION);
    client.call(&Ping {}).unwrap();
    assert_eq!(client.call(&GetConfig {}).unwrap().config, "x".repeat(10));

    let mut raw = server.raw();
    raw.write_all(&b"{\"method\":\"io.mcr.Control.Ping\"}\0".repeat(50)).unwrap();
    raw.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut raw), "{\"parameters\":{}}\0".repeat(50));
}

#[test]
fn a_oneway_call_has_no_reply() {
    let server = Server::start(ServerLimits::default(), None);
    let mut raw = server.raw();
    raw.write_all(b"{\"method\":\"io.mcr.Control.Ping\",\"oneway\":true}\0").unwrap();
    raw.write_all(b"{\"method\":\"io.mcr.Control.Pong\",\"oneway\":true}\0").unwrap();
    raw.write_all(b"{\"method\":\"io.mcr.Control.Ping\"}\0").unwrap();
    raw.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut raw), "{\"parameters\":{}}\0");
}

#[test]
fn statistics_stream_until_the_client_leaves() {
    let limits = ServerLimits { stats_interval: Duration::from_millis(1), ..ServerLimits::default() };
    let server = Server::start(limits, None);
    let mut replies = 0;
    server
        .client()
        .stream(&GetStats {}, |_| {
            replies += 1;
            if replies < 5 { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) }
        })
        .unwrap();
    assert_eq!(replies, 5);
    server.client().call(&Ping {}).unwrap();
}

#[test]
fn what_is_no_request_is_answered_and_ends_the_connection() {
    let server = Server::start(ServerLimits::default(), None);
    let long = [b"{\"".as_slice(), &vec![b'x'; mcr_control::MAX_REQUEST_BYTES]].concat();
    assert_bad_request(&mut write(&server.path(), &long), "longer than 262144 bytes");
    let deep = [b"{\"parameters\":".as_slice(), &[b'['; 200_000]].concat();
    assert_bad_request(&mut write(&server.path(), &deep), "nests deeper than 64");
    assert_bad_request(&mut write(&server.path(), b"GET / HTTP/1.1\r\n\r\n"), "not a JSON object");
    assert_bad_request(&mut write(&server.path(), b"{\"method\":\0"), "not a call");
    assert_bad_request(&mut write(&server.path(), b"{\"method\":\"a\",\"method\":\"b\"}\0"), "occurs twice");
    let many = format!("{{\"method\":\"a\",\"parameters\":{{\"a\":[{}1]}}}}\0", "1,".repeat(100_000));
    assert_bad_request(&mut write(&server.path(), many.as_bytes()), "too many values");
    server.client().call(&Ping {}).unwrap();
}

#[test]
fn silent_and_trickling_clients_delay_nobody_and_end_at_their_deadline() {
    let limits = ServerLimits { request_deadline: SHORT, ..ServerLimits::default() };
    let server = Server::start(limits, None);
    let mut idle = server.raw();
    let mut trickling = server.raw();
    let mut client = server.client();
    // One byte at a time, with an answered call of another client between, until the deadline has passed: the
    // deadline is absolute, bytes don't extend it.
    let mut sent = 0;
    for byte in b"{\"method\":\"io.mcr.Control.Ping".iter().chain(std::iter::repeat(&b' ')) {
        client.call(&Ping {}).unwrap();
        if trickling.write_all(&[*byte]).is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent > 10, "{sent}");
    assert_bad_request(&mut trickling, "not complete after 0.3 s");
    idle.write_all(b"{\"method\":\"io.mcr.Control.Ping\"}\0").unwrap();
    idle.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut idle), "{\"parameters\":{}}\0", "an idle connection has no deadline");
}

/// More than the kernel takes of a reply, whose socket has the host's default send buffer (unix(7)).
fn large_reply_bytes() -> usize {
    let default = std::fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap();
    (4 << 20).max(2 * default.trim().parse::<usize>().unwrap())
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_delays_nobody() {
    let limits = ServerLimits { write_deadline: SHORT, ..ServerLimits::default() };
    let server = Server::start(limits, Some(large_reply_bytes()));
    let mut deaf = server.raw();
    deaf.write_all(b"{\"method\":\"io.mcr.Control.GetConfig\"}\0").unwrap();
    let mut client = server.client();
    // The server closes the connection of the client that does not read: then writing to it fails.
    while deaf.write_all(b" ").is_ok() {
        client.call(&Ping {}).unwrap();
    }
    client.call(&Ping {}).unwrap();
}

#[test]
fn unread_large_replies_share_a_budget() {
    let limits = ServerLimits { reply_bytes: large_reply_bytes() + (1 << 20), ..ServerLimits::default() };
    let server = Server::start(limits, Some(large_reply_bytes()));
    let mut deaf = server.raw();
    deaf.write_all(b"{\"method\":\"io.mcr.Control.GetConfig\"}\0").unwrap();
    // The first byte shows that the reply is being written; the rest is queued in the server.
    assert_eq!(deaf.read(&mut [0]).unwrap(), 1);
    let error = server.client().call(&GetConfig {}).unwrap_err();
    assert!(error.to_string().contains("too many large answers"), "{error}");
    drop(deaf);
    // The server notices at its next write; each attempt lets it do so.
    assert!((0..1000).any(|_| server.client().call(&GetConfig {}).is_ok()), "the budget is not given back");
}

#[test]
fn a_loop_that_does_not_answer_is_reported_and_other_clients_go_on() {
    let limits = ServerLimits { answer_deadline: SHORT, ..ServerLimits::default() };
    let server = Server::start(limits, None);
    let mut waiting = server.raw();
    waiting.write_all(b"{\"method\":\"io.mcr.Control.GetConfig\"}\0").unwrap();
    server.client().call(&Ping {}).unwrap();
    let error = server.client().call(&GetConfig {}).unwrap_err();
    assert!(
        matches!(
            &error,
            ClientError::Refused(CallError::Failure(f)) if f.kind == FailureKind::Unavailable
        ),
        "{error}"
    );
}

#[test]
fn unfinished_large_requests_share_a_budget() {
    let limits = ServerLimits {
        large_message_bytes: 1000,
        request_bytes: 100_000,
        request_deadline: PATIENT,
        ..ServerLimits::default()
    };
    let server = Server::start(limits, None);
    let part = [b"{\"".as_slice(), &[b'x'; 80_000]].concat();
    let holding = write(&server.path(), &part);
    let refused = |attempt: &mut StdStream| read_all(attempt).contains("too many large requests");
    // The first part may still be in flight when the second arrives; one of the two must be evicted.
    let mut second = write(&server.path(), &part);
    second.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    if !refused(&mut second) {
        let mut first = holding.try_clone().unwrap();
        assert!(refused(&mut first), "both fit");
    }
    drop((holding, second));
    server.client().call(&CheckConfig { config: ("{}".to_owned() + &" ".repeat(60_000)).into() }).unwrap();
}

#[test]
fn the_longest_idle_connection_makes_room() {
    let mut limits = ServerLimits::default();
    limits.slots.total = 4;
    limits.slots.reserved = 0;
    let server = Server::start(limits, None);
    let mut idle: Vec<StdStream> = (0..40).map(|_| server.raw()).collect();
    server.client().call(&Ping {}).unwrap();
    assert_eq!(idle[0].read(&mut [0]).unwrap(), 0, "the oldest connection is still open");
}
