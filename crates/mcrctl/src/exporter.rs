//! `mcrctl exporter`: the counters in the text formats of OpenMetrics (<https://openmetrics.io>) and Prometheus, over
//! HTTP. It is a program of its own: scraping it can't disturb the daemon, and it needs no right but to read.
//!
//! ```text
//!   Prometheus ── GET /metrics ──▶ http ──▶ snapshot ──▶ control socket: GetStats, ListRules, ListWorkers, …
//!                ◀── exposition ── metrics ◀──
//! ```

mod families;
mod metrics;
mod snapshot;

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode, header};
use mcr_control::client::{Client, ClientError};
use tokio::task::spawn_blocking;

use self::families::Format;
use self::metrics::Scrape;
use self::snapshot::Snapshot;
use crate::failure::printable;
use crate::http::{self, Address, Limits, Listener, Request, Response, response};

const LIMITS: Limits = Limits { connections: 8, head_bytes: 8 * 1024, lifetime: Duration::from_secs(5) };
/// Time for the daemon's replies; the rest of a connection's lifetime is for the scraper.
const DAEMON_TIME: Duration = Duration::from_secs(4);

/// Which daemon is asked.
#[derive(Clone, Debug)]
struct Target {
    socket: PathBuf,
    timeout: Duration,
}

/// Serves until the program is ended. `ready` is called with the address that it listens on.
pub(crate) fn serve(
    address: &Address,
    socket: &Path,
    timeout: Duration,
    ready: impl FnOnce(&Address),
) -> io::Result<Infallible> {
    let target = Target { socket: socket.to_owned(), timeout: timeout.min(DAEMON_TIME) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LIMITS.connections)
        .build()?;
    runtime.block_on(async {
        let (listener, address) = Listener::bind(address).await?;
        ready(&address);
        Ok(http::serve(listener, LIMITS, move |request| answer(target.clone(), request)).await)
    })
}

async fn answer(target: Target, request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n");
    }
    match request.uri().path() {
        "/metrics" => {
            let accepted = request.headers().get_all(header::ACCEPT).into_iter();
            let accepted: Vec<&str> = accepted.filter_map(|value| value.to_str().ok()).collect();
            scrape(&target, Format::accepted(&accepted.join(","))).await
        }
        "/" => {
            let page = "<html><body>MCR: <a href=\"/metrics\">metrics</a></body></html>\n";
            response(StatusCode::OK, "text/html", page)
        }
        _ => response(StatusCode::NOT_FOUND, "text/plain", "try /metrics\n"),
    }
}

#[expect(clippy::disallowed_methods, reason = "measures the response time of the daemon")]
async fn scrape(target: &Target, format: Format) -> Response {
    let began = Instant::now();
    let snapshot = take_snapshot(target.clone()).await;
    if let Err(error) = &snapshot {
        // A closed stderr is no reason to fail.
        let _ = writeln!(io::stderr(), "{}", printable(&error.to_string()));
    }
    let scrape = Scrape { snapshot: snapshot.ok(), took: began.elapsed() };
    match format.encode(scrape) {
        Ok(exposition) => response(StatusCode::OK, format.content_type(), exposition),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
    }
}

/// Asks the daemon on a thread of its own, because the client blocks.
async fn take_snapshot(target: Target) -> Result<Snapshot, ClientError> {
    let timeout = target.timeout;
    let asked = spawn_blocking(move || Snapshot::take(&mut Client::connect(&target.socket, timeout)?));
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(panicked)) => Err(ClientError::Connection(panicked.into())),
        Err(_) => Err(ClientError::TimedOut(timeout)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_daemon_the_scrape_reports_it_down() {
        let target = Target { socket: "/nonexistent/mcrd.sock".into(), timeout: Duration::from_secs(1) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let response = runtime.block_on(scrape(&target, Format::OpenMetrics));
        let content_type = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
        assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
        let body =
            runtime.block_on(http_body_util::BodyExt::collect(response.into_body())).unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("\nmcr_up 0\n") && text.ends_with("# EOF\n"), "{text}");
    }
}
