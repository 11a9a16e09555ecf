//! Notifications to the service manager (sd_notify(3)): ready, watchdog, stopping and main PID.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager {
    /// `NOTIFY_SOCKET`: a path, or an abstract name behind `@`.
    pub socket: Option<OsString>,
    /// `WATCHDOG_USEC`: a service without a notification for longer is restarted.
    pub watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Returns the interval of watchdog notifications.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.filter(|limit| self.socket.is_some() && !limit.is_zero()).map(|limit| limit / 2)
    }

    /// Sends a notification; does nothing without a service manager.
    pub(crate) fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, state) {
            tracing::debug!(target: mcr_rules::log::CONTROL, %error, state, "can't notify the service manager");
        }
    }
}

fn send(socket: &OsStr, state: &str) -> std::io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let sender = UnixDatagram::unbound()?;
    // The manager's queue may be full; the daemon does not wait for it.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_an_abstract_name_are_reported_and_nobody_is_no_error() {
        let name = format!("mcr-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let _ = std::fs::remove_file(&path);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, receiver) in
            [(path.clone().into(), at_path), (OsString::from(format!("@{name}")), abstract_one)]
        {
            let manager = ServiceManager { socket: Some(socket), watchdog: Some(Duration::from_secs(30)) };
            assert_eq!(manager.watchdog_interval(), Some(Duration::from_secs(15)));
            manager.tell("READY=1");
            let mut buffer = [0; 32];
            let bytes = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..bytes], b"READY=1");
        }
        let _ = std::fs::remove_file(&path);
        let nobody = ServiceManager { socket: None, watchdog: Some(Duration::from_secs(1)) };
        nobody.tell("READY=1");
        assert_eq!(nobody.watchdog_interval(), None);
        ServiceManager { socket: Some("/no/such/socket".into()), watchdog: None }.tell("READY=1");
    }
}
