//! The supervisor's side of an observer: opens its socket, starts it, waits for its report. The supervisor must not
//! read frames itself (`mcr_link::observation`). Blocks; run it in a thread of its own.

use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mcr_link::observation::{MAX_OBSERVATION_BYTES, Observation};
use mcr_rules::SandboxChoice;
use mcr_sys::clock;
use mcr_sys::link::IfIndex;
use mcr_sys::observation::ObservationSocket;
use mcr_sys::poll::wait_readable;
use mcr_sys::process::CommandExt as _;

/// An observer starts and exits within this time, in addition to the observation time.
const PATIENCE: Duration = Duration::from_secs(4);

/// Observes for this time what arrives for these groups, and memberships; on the given interfaces all multicast. Also what
/// programs of this host send to the groups on the interfaces `senders`. The error is human-readable.
pub(crate) fn observe(
    groups: &[IpAddr],
    interfaces: &[IfIndex],
    senders: &[IfIndex],
    time: Duration,
    sandbox: SandboxChoice,
) -> Result<Observation, String> {
    let socket = ObservationSocket::open(groups, senders).map_err(|error| error.to_string())?;
    for ifindex in interfaces {
        // The interface may be gone by now; the others are still worth observing.
        let _ = socket.receive_all_multicast(*ifindex);
    }
    run(socket, time, sandbox)
}

/// Observes for this time all multicast that arrives, and what arrives for these addresses, until there is enough. Without
/// [`observe`] beside it, interfaces receive only groups that this host has joined.
///
/// # Errors
/// As [`observe`].
pub(crate) fn observe_surroundings(
    addresses: &[IpAddr],
    time: Duration,
    sandbox: SandboxChoice,
) -> Result<Observation, String> {
    let socket = ObservationSocket::open_for_all_multicast_and(addresses);
    run(socket.map_err(|error| error.to_string())?, time, sandbox)
}

fn run(socket: ObservationSocket, time: Duration, sandbox: SandboxChoice) -> Result<Observation, String> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("mcrd")
        .args(["observe", &time.as_millis().to_string(), &sandbox.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::piped())
        .process_group(0)
        .die_with_parent();
    let mut child = command.spawn().map_err(|error| format!("start the observer: {error}"))?;
    // Descriptors in the command, including the socket, are for the child only.
    drop(command);
    let bytes = read_all(&mut child, clock::monotonic() + time + PATIENCE);
    if bytes.is_err() {
        // It may have exited.
        let _ = child.kill();
    }
    let ended = child.wait().map_err(|error| format!("wait for the observer: {error}"))?;
    let bytes = bytes?;
    if !ended.success() {
        return Err(format!("the observer ended with {ended}"));
    }
    Observation::decode(&bytes).map_err(|error| format!("read the observation: {error}"))
}

fn read_all(child: &mut Child, deadline: Duration) -> Result<Vec<u8>, String> {
    let mut output = child.stdout.take().ok_or("the observer has no output")?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_sub(clock::monotonic());
        let [readable] = wait_readable([output.as_fd()], Some(left)).map_err(|error| error.to_string())?;
        if !readable {
            if left.is_zero() {
                return Err("the observer does not end".to_owned());
            }
            continue;
        }
        match output.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend(chunk.get(..n).unwrap_or_default()),
            Err(error) => return Err(format!("read the observation: {error}")),
        }
        if bytes.len() > MAX_OBSERVATION_BYTES {
            return Err("the observation is too long".to_owned());
        }
    }
}
