use std::path::PathBuf;

use hyper::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::*;

const LIMITS: Limits = Limits { connections: 4, head_bytes: 8192, lifetime: Duration::from_millis(400) };
/// More than the buffers of a socket hold.
const LARGE: usize = 64 << 20;
/// When a test has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a unix socket: `/large` has a large answer, `/` a small one.
struct Server {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("http.sock");
        let (listener, _) = Listener::bind(&Address::Unix(path.clone())).await.unwrap();
        let handler = |request: Request| async move {
            let body = if request.uri().path() == "/large" { vec![0; LARGE] } else { b"small".to_vec() };
            response(StatusCode::OK, "text/plain", body)
        };
        tokio::spawn(serve(listener, limits, handler));
        Self { path, _directory: directory }
    }

    async fn connect(&self, request: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream
    }

    /// The answer to a request, up to the end of the connection.
    async fn exchange(&self, request: &str) -> String {
        read(self.connect(request.as_bytes()).await).await
    }
}

async fn read(mut stream: UnixStream) -> String {
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

/// Runs `test` as the program runs its server: on one thread.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn slow_readers_lose_their_connections_at_the_deadline() {
    run(async {
        let server = Server::start(LIMITS).await;
        let began = Instant::now();
        let mut readers = Vec::new();
        for _ in 0..LIMITS.connections {
            readers.push(server.connect(b"GET /large HTTP/1.1\r\n\r\n").await);
        }
        let answer = server.exchange("GET / HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("small"), "{answer}");
        assert!(began.elapsed() >= LIMITS.lifetime, "{:?}: the readers held no slot", began.elapsed());
        // Its slot was the first to be free.
        let mut received = Vec::new();
        timeout(PATIENCE, readers[0].read_to_end(&mut received)).await.unwrap().unwrap();
        assert!(received.len() < LARGE, "the reader got the whole answer");
    });
}

#[test]
fn trickling_writers_lose_their_connections_at_the_deadline() {
    run(async {
        let server = Server::start(LIMITS).await;
        let began = Instant::now();
        let mut writers = Vec::new();
        for _ in 0..LIMITS.connections {
            let mut stream = server.connect(b"GET / HTTP/1.1\r\nX: ").await;
            writers.push(tokio::spawn(async move {
                let mut ticks = tokio::time::interval(LIMITS.lifetime / 20);
                while stream.write_all(b"x").await.is_ok() {
                    ticks.tick().await;
                }
            }));
        }
        let answer = server.exchange("GET / HTTP/1.1\r\n\r\n").await;
        assert!(answer.ends_with("small"), "{answer}");
        assert!(began.elapsed() >= LIMITS.lifetime, "{:?}: the writers held no slot", began.elapsed());
        for writer in writers {
            timeout(PATIENCE, writer).await.unwrap().unwrap();
        }
    });
}

#[test]
fn connections_beyond_the_limit_wait_for_a_slot() {
    run(async {
        let server = Server::start(Limits { lifetime: PATIENCE, ..LIMITS }).await;
        let mut idle = Vec::new();
        for _ in 0..LIMITS.connections {
            idle.push(server.connect(b"").await);
        }
        let mut waiting = Vec::new();
        for _ in 0..30 {
            waiting.push(server.connect(b"GET / HTTP/1.1\r\n\r\n").await);
        }
        drop(idle);
        for stream in waiting {
            let answer = read(stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        }
    });
}

#[test]
fn malformed_and_oversized_requests_are_answered_with_an_error() {
    run(async {
        let server = Server::start(LIMITS).await;
        let oversized = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(3 * LIMITS.head_bytes));
        for (request, status) in
            [("GET / HTTP/1.1\n\n", "200"), ("nonsense\r\n\r\n", "400"), (&oversized, "431")]
        {
            let answer = server.exchange(request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.40}: {answer}");
        }
        let answer = server.exchange("HEAD / HTTP/1.1\r\n\r\n").await;
        assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    });
}
