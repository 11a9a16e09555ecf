//! A small HTTP server (RFC 9112): one request per connection, GET only, within narrow limits.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use mcr_control::client::Client;

use super::exposition::Format;
use super::metrics::exposition;
use super::snapshot::Snapshot;

/// Connections at a time; more wait in the kernel's queue until one of these ends.
const MAX_CONNECTIONS: usize = 8;
/// The head of a request.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// A request is complete, and an answer read, within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// A client that sent nonsense has so much time between its last bytes.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the exporter listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("a path is expected after unix:".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => {
                text.parse().map(Self::Tcp).map_err(|_| "ADDRESS:PORT or unix:PATH is expected".to_owned())
            }
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/metrics"),
            Self::Unix(path) => write!(f, "{} (GET /metrics)", path.display()),
        }
    }
}

/// Which daemon is asked.
#[derive(Clone, Debug)]
struct Target {
    socket: PathBuf,
    timeout: Duration,
}

/// Serves until the program is ended. `ready` is called with the address that it listens on.
///
/// # Errors
/// It can't listen there.
pub(crate) fn serve(
    address: &Address,
    socket: &Path,
    timeout: Duration,
    ready: impl FnOnce(&Address),
) -> io::Result<std::convert::Infallible> {
    let target = Target { socket: socket.to_owned(), timeout: timeout.min(PATIENCE) };
    match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            ready(&Address::Tcp(listener.local_addr()?));
            accept(&target, || listener.accept().map(|(stream, _)| stream))
        }
        Address::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path)?;
            ready(address);
            accept(&target, || listener.accept().map(|(stream, _)| stream))
        }
    }
}

/// A socket file that nobody listens on is left from an earlier run.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) { fs::remove_file(path) } else { Ok(()) }
}

/// A connection.
trait Stream: Read + Write + Send + 'static {
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl Stream for UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

/// One of [`MAX_CONNECTIONS`]; free again when this is dropped.
struct Place(SyncSender<()>);

impl Drop for Place {
    fn drop(&mut self) {
        // There is room for all of them.
        let _ = self.0.try_send(());
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program is a shell: it waits for the kernel's descriptors"
)]
fn accept<S: Stream>(
    target: &Target,
    mut next: impl FnMut() -> io::Result<S>,
) -> io::Result<std::convert::Infallible> {
    let (free, places) = mpsc::sync_channel(MAX_CONNECTIONS);
    (0..MAX_CONNECTIONS).for_each(|_| drop(Place(free.clone())));
    loop {
        let _ = places.recv();
        let place = Place(free.clone());
        let Ok(stream) = next() else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        let target = target.clone();
        // A thread that can't be had drops the place with the connection.
        let _ = thread::Builder::new().name("scrape".to_owned()).spawn(move || {
            let _place = place;
            // Whoever hangs up has no interest in an answer.
            let _ = answer(&target, stream);
        });
    }
}

fn answer(target: &Target, mut stream: impl Stream) -> io::Result<()> {
    let Some(head) = read_head(&mut stream)? else {
        respond(&mut stream, "400 Bad Request", "text/plain", "not a request of HTTP\n", true)?;
        return discard(&mut stream);
    };
    let (first, headers) = head.split_once('\n').unwrap_or((&head, ""));
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let with_body = method != "HEAD";
    match (method, path) {
        ("GET" | "HEAD", "/metrics") => {
            let accept = headers.lines().filter_map(|line| line.split_once(':'));
            let accept =
                accept.filter(|(name, _)| name.eq_ignore_ascii_case("accept")).map(|(_, value)| value);
            let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
            respond(&mut stream, "200 OK", format.content_type(), &scrape(target, format), with_body)
        }
        ("GET" | "HEAD", "/") => {
            let page = "<html><body>MCR: <a href=\"/metrics\">metrics</a></body></html>\n";
            respond(&mut stream, "200 OK", "text/html", page, with_body)
        }
        ("GET" | "HEAD", _) => {
            respond(&mut stream, "404 Not Found", "text/plain", "try /metrics\n", with_body)
        }
        _ => respond(&mut stream, "405 Method Not Allowed", "text/plain", "GET only\n", true),
    }
}

/// Takes what is still coming, within limits: closing before that would take the answer from the client.
fn discard(stream: &mut impl Stream) -> io::Result<()> {
    let mut chunk = [0; 1024];
    for _ in 0..8 * MAX_HEAD_BYTES / chunk.len() {
        stream.limit(LAST_WORDS)?;
        if stream.read(&mut chunk)? == 0 {
            break;
        }
    }
    Ok(())
}

/// The request up to its empty line; `None` if it is too long, too slow, or no text.
#[expect(clippy::disallowed_methods, reason = "the program is a shell: it waits for another one")]
fn read_head(stream: &mut impl Stream) -> io::Result<Option<String>> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > MAX_HEAD_BYTES {
            return Ok(None);
        }
        stream.limit(left)?;
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(None);
        }
        head.extend(chunk.get(..read).unwrap_or_default());
        if head.windows(4).any(|four| four == b"\r\n\r\n") || head.windows(2).any(|two| two == b"\n\n") {
            return Ok(String::from_utf8(head).ok());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the program measures how long another one takes")]
fn scrape(target: &Target, format: Format) -> String {
    let began = Instant::now();
    let snapshot =
        Client::connect(&target.socket, target.timeout).and_then(|mut client| Snapshot::take(&mut client));
    if let Err(error) = &snapshot {
        // Talk that nobody can hear is no failure.
        let _ = writeln!(io::stderr(), "{}", crate::failure::printable(&error.to_string()));
    }
    exposition(snapshot.as_ref().ok(), began.elapsed(), format)
}

fn respond(
    stream: &mut impl Stream,
    status: &str,
    content_type: &str,
    body: &str,
    with_body: bool,
) -> io::Result<()> {
    stream.limit(PATIENCE)?;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if with_body {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole answer to a request; nobody answers on the daemon's socket.
    fn exchange(request: &str) -> String {
        let (mut client, server) = UnixStream::pair().unwrap();
        let target = Target { socket: "/nonexistent/mcrd.sock".into(), timeout: Duration::from_secs(1) };
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        answer(&target, server).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn addresses_are_tcp_or_unix() {
        assert_eq!("127.0.0.1:9478".parse(), Ok(Address::Tcp(([127, 0, 0, 1], 9478).into())));
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        for wrong in ["", "unix:", "9478", "host:9478", "/run/x"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_told_as_a_metric() {
        let answer =
            exchange("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text"),
            "{answer}"
        );
        assert!(answer.contains("\nmcr_up 0\n") && answer.ends_with("# EOF\n"), "{answer}");
    }

    #[test]
    fn more_connections_than_are_served_at_once_wait_for_their_turn() {
        let (give, take) = mpsc::channel::<UnixStream>();
        let target = Target { socket: "/nonexistent/mcrd.sock".into(), timeout: Duration::from_secs(1) };
        thread::spawn(move || accept(&target, || take.recv().map_err(io::Error::other)));
        let connect = || {
            let (client, server) = UnixStream::pair().unwrap();
            give.send(server).unwrap();
            client
        };
        let idle: Vec<UnixStream> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
        let mut waiting: Vec<UnixStream> = (0..30).map(|_| connect()).collect();
        for client in &mut waiting {
            client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        }
        drop(idle);
        for mut client in waiting {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        }
    }

    #[test]
    fn what_is_no_scrape_is_refused() {
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "200"),
            ("GET /metrics?x=y HTTP/1.1\n\n", "200"),
            ("GET /other HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "405"),
            ("GET /metrics HTTP/1.1\r\n", "400"),
            (&format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES)), "400"),
        ] {
            let answer = exchange(request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.40}: {answer}");
        }
    }
}
