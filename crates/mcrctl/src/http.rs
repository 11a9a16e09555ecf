//! An HTTP/1 server with limits: on connections at a time, on the size of a request, and on the lifetime of a
//! connection. A slow client can't hold a connection beyond its deadline, whether it writes or reads slowly.
//!
//! ```text
//!   accept ──▶ one of `connections` slots ──▶ request ──▶ handler ──▶ response ──▶ close
//!                                            └──────── within `lifetime` ────────┘
//! ```

mod listener;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

pub(crate) use self::listener::{Address, Listener};

pub(crate) type Request = hyper::Request<Incoming>;
pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time; more wait in the kernel's queue until one of these ends.
    pub connections: usize,
    /// Bytes of a request's head; 8192 at least, as hyper demands.
    pub head_bytes: usize,
    /// Time from accept to close, whatever the client does.
    pub lifetime: Duration,
}

/// Serves forever: one request per connection.
pub(crate) async fn serve<A>(
    listener: Listener,
    limits: Limits,
    handler: impl Fn(Request) -> A + Clone + Send + Sync + 'static,
) -> Infallible
where
    A: Future<Output = Response> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        // The semaphore is never closed.
        let slot = Arc::clone(&slots).acquire_owned().await;
        let Ok(stream) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let connection = connection(stream, limits, handler.clone());
        tokio::spawn(async move {
            let _slot = slot;
            // The end of the lifetime closes the connection.
            let _ = timeout(limits.lifetime, connection).await;
        });
    }
}

async fn connection<A: Future<Output = Response>>(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    limits: Limits,
    handler: impl Fn(Request) -> A,
) {
    let service = service_fn(|request| {
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(&mut stream), service)
        .await;
    if served.is_err() {
        // Closing with unread data would take the error response from the client.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }
}

/// Returns a response.
pub(crate) fn response(
    status: hyper::StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests;
