//! Network namespaces as values (network_namespaces(7)), and a user namespace for unprivileged users
//! (user_namespaces(7)).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;

use mcr_sys::{Result, SysError, test_env};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

/// An anonymous network namespace. It has no name in the file system and exists as long as this value and the sockets
/// and processes in it: a crash leaves nothing behind.
#[derive(Debug)]
pub struct NetNamespace {
    fd: OwnedFd,
}

impl NetNamespace {
    /// Creates a namespace with a loopback interface, which is down.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` in the user namespace.
    pub fn create() -> Result<Self> {
        on_new_thread(|| {
            test_env::unshare_network()?;
            Self::current()
        })?
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn current() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(|errno| SysError::from_errno("open network namespace", errno))?;
        Ok(Self { fd })
    }

    /// Runs `work` on a new thread in this namespace. Sockets that it opens stay in the namespace wherever they are
    /// used later.
    ///
    /// # Errors
    /// The thread can't be started or may not enter the namespace (`EPERM`). A panic in `work` is resumed.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_new_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Makes the program that the command starts run in this namespace.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn apply_to(&self, command: &mut Command) -> io::Result<()> {
        test_env::in_network_namespace(command, self)
    }

    /// Moves the calling thread into this namespace permanently.
    fn enter(&self) -> Result<()> {
        rustix::thread::move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| SysError::from_errno("setns network namespace", errno))
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns whether this process has the capabilities that a network of namespaces needs: to create them, to configure
/// them, and to open packet sockets in them.
#[must_use]
pub fn may_create_namespaces() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    rustix::thread::capabilities(None).is_ok_and(|held| held.effective.contains(needed))
}

/// Moves this process into a new user namespace, as root in it: network namespaces, capabilities and packet sockets
/// then work without being root outside. Programs started afterwards inherit it.
///
/// Only the caller's own user and group are mapped.
///
/// # Errors
/// `EINVAL` if the process has several threads; `EPERM` or `ENOSPC` if the system forbids user namespaces.
pub fn enter_user_namespace() -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    test_env::unshare_user()?;
    // user_namespaces(7): setgroups must be denied before an unprivileged process may map its group.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1\n"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1\n"))
}

fn write(path: &str, text: &str) -> Result<()> {
    const STEP: &str = "write user namespace map";
    let mut file = File::options().write(true).open(path).map_err(|error| SysError::new(STEP, error))?;
    file.write_all(text.as_bytes()).map_err(|error| SysError::new(STEP, error))
}

/// A thread's change of namespace is permanent, so each call runs on a thread of its own.
fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| SysError::new("start thread", error))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn inode(namespace: &NetNamespace) -> u64 {
        rustix::fs::fstat(namespace).unwrap().st_ino
    }

    #[test]
    fn each_namespace_is_its_own_and_the_caller_stays_where_it_was() {
        let before = inode(&NetNamespace::current().unwrap());
        let (one, other) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        assert_ne!(inode(&one), inode(&other));
        let inside = one.run(|| inode(&NetNamespace::current().unwrap())).unwrap();
        assert_eq!(inside, inode(&one));
        assert_eq!(inode(&NetNamespace::current().unwrap()), before);
    }

    #[test]
    fn a_socket_stays_in_the_namespace_it_was_made_in() {
        let (one, other) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        let _held = one.run(|| UdpSocket::bind("0.0.0.0:4000").unwrap()).unwrap();
        assert!(one.run(|| UdpSocket::bind("0.0.0.0:4000").is_err()).unwrap());
        assert!(other.run(|| UdpSocket::bind("0.0.0.0:4000").is_ok()).unwrap());
    }

    #[test]
    fn a_program_runs_in_the_namespace_it_is_given() {
        let namespace = NetNamespace::create().unwrap();
        let mut command = Command::new("readlink");
        namespace.apply_to(command.arg("/proc/self/ns/net")).unwrap();
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(output.trim(), format!("net:[{}]", inode(&namespace)));
    }

    #[test]
    fn a_panic_inside_reaches_the_caller() {
        let namespace = NetNamespace::create().unwrap();
        let result = std::panic::catch_unwind(|| namespace.run(|| panic!("inside")));
        assert_eq!(result.unwrap_err().downcast_ref(), Some(&"inside"));
    }
}
