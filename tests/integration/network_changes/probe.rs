//! A slow, steady flow whose every datagram tells its number and when it was sent, so that a test sees when a flow came
//! back and what was missing. Both ends are on one machine, so one clock serves both.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::{Host, wait_for};

use super::DEADLINE;
use crate::scenario::{INPUT_PORT, OUTPUT_PORT};

/// Between two datagrams.
const PACE: Duration = Duration::from_millis(1);
const BYTES: usize = 200;

/// Sends until it is stopped.
pub(super) struct Sender {
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<u64>>,
}

impl Sender {
    /// Sends each datagram from each address to each group, about a thousand times a second. What the kernel refuses
    /// (the interface is down) is a datagram lost.
    pub(super) fn start(host: &Host, from: &[&str], groups: &[&str]) -> Self {
        let sockets: Vec<UdpSocket> = from
            .iter()
            .map(|address| {
                let address: IpAddr = address.parse().unwrap();
                let socket =
                    host.run(|| UdpSocket::bind((address, 0)).expect("bind to the interface's address"));
                socket.set_multicast_ttl_v4(16).unwrap();
                socket
            })
            .collect();
        let groups: Vec<SocketAddr> =
            groups.iter().map(|group| SocketAddr::new(group.parse().unwrap(), INPUT_PORT)).collect();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut number = 0_u64;
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                let mut payload = [0; BYTES];
                payload[..8].copy_from_slice(&number.to_le_bytes());
                payload[8..16].copy_from_slice(&nanoseconds(monotonic()).to_le_bytes());
                for (socket, group) in sockets.iter().flat_map(|s| groups.iter().map(move |g| (s, g))) {
                    let _ = socket.send_to(&payload, group);
                }
                number += 1;
            }
            number
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends, and returns how many datagrams were sent to each group.
    pub(super) fn finish(mut self) -> u64 {
        let _ = self.stop.send(());
        self.thread.take().map(|thread| thread.join().unwrap()).unwrap_or_default()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) number: u64,
    pub(super) sent: Duration,
    pub(super) at: Duration,
    pub(super) from: SocketAddr,
}

/// Receives one group until it is dropped.
pub(super) struct Listener {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn start(host: &Host, interface: &str, group: &str) -> Self {
        let group: IpAddr = group.parse().unwrap();
        let index = host.index(interface);
        let socket = host.run(|| {
            let socket = UdpSocket::bind((group, OUTPUT_PORT)).expect("bind to the group");
            let membership = mcr_sys::membership::Membership { ifindex: index, group, source: None };
            match group {
                IpAddr::V4(_) => {
                    let mut pool = mcr_sys::membership::MembershipPool::default();
                    pool.join(membership).expect("join");
                    (socket, Some(pool))
                }
                IpAddr::V6(group) => {
                    socket.join_multicast_v6(&group, index.to_raw()).expect("join");
                    (socket, None)
                }
            }
        });
        let (socket, pool) = socket;
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (arrivals, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (Arc::clone(&arrivals), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let _membership = pool;
            let mut payload = [0; 2 * BYTES];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((BYTES, from)) = socket.recv_from(&mut payload) else { continue };
                let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
                let arrival = Arrival {
                    number: number(0),
                    sent: Duration::from_nanos(number(8)),
                    at: monotonic(),
                    from,
                };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
            }
        });
        Self { arrivals, stop, thread: Some(thread) }
    }

    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the first datagram that was sent after this moment.
    pub(super) fn first_after(&self, moment: Duration) -> Arrival {
        wait_for("a datagram to come through", DEADLINE, || {
            let arrivals = self.arrivals();
            arrivals.iter().find(|arrival| arrival.sent >= moment).copied().ok_or(arrivals.last().copied())
        })
    }

    /// How long after this moment the flow was back.
    pub(super) fn back_after(&self, moment: Duration) -> Duration {
        self.first_after(moment).at.saturating_sub(moment)
    }

    /// When the last datagram came.
    pub(super) fn last(&self) -> Duration {
        self.arrivals().last().map(|arrival| arrival.at).unwrap_or_default()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
