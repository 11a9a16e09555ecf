//! Where the control socket is when nobody says.

use std::path::{Path, PathBuf};

/// Where the system's daemon listens.
pub const SYSTEM_SOCKET: &str = "/run/mcr/mcrd.sock";
/// Where a user's own daemon listens, below `$XDG_RUNTIME_DIR`.
pub const USER_SOCKET: &str = "mcr/mcrd.sock";

/// Where a daemon of this user listens: root's is the system's, everybody else's is in their runtime directory, if
/// they have one.
#[must_use]
pub fn daemon_socket(uid: u32, runtime_dir: Option<&Path>) -> PathBuf {
    own_socket(uid, runtime_dir).unwrap_or_else(|| PathBuf::from(SYSTEM_SOCKET))
}

/// Where a client of this user looks: the user's own daemon if there is one, else the system's.
#[must_use]
pub fn client_socket(uid: u32, runtime_dir: Option<&Path>, exists: impl Fn(&Path) -> bool) -> PathBuf {
    own_socket(uid, runtime_dir).filter(|path| exists(path)).unwrap_or_else(|| PathBuf::from(SYSTEM_SOCKET))
}

/// A relative runtime directory is none (XDG Base Directory Specification).
fn own_socket(uid: u32, runtime_dir: Option<&Path>) -> Option<PathBuf> {
    runtime_dir.filter(|dir| uid != 0 && dir.is_absolute()).map(|dir| dir.join(USER_SOCKET))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_the_systems_socket_and_a_user_their_own() {
        let dir = Some(Path::new("/run/user/7"));
        let own = Path::new("/run/user/7/mcr/mcrd.sock");
        let system = Path::new(SYSTEM_SOCKET);
        assert_eq!(daemon_socket(0, dir), system);
        assert_eq!(daemon_socket(7, dir), own);
        assert_eq!(daemon_socket(7, None), system);
        assert_eq!(daemon_socket(7, Some(Path::new("run"))), system);
        assert_eq!(client_socket(7, dir, |path| path == own), own);
        assert_eq!(client_socket(7, dir, |_| false), system);
        assert_eq!(client_socket(0, dir, |_| true), system);
    }
}
