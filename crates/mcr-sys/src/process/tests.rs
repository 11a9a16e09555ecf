//! Real children, each ended before its test is.

use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::*;

/// A child that waits for its standard input to close.
fn waiting(configure: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    configure(&mut command);
    command.spawn().unwrap()
}

fn readable(fd: &PidFd, deadline: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(deadline).unwrap();
    poll(&mut fds, Some(&timeout)).unwrap() == 1
}

#[test]
fn an_exit_is_seen_and_an_ended_process_can_not_be_signaled() {
    let mut child = waiting(|_| ());
    let handle = PidFd::open(child.id()).unwrap();
    assert!(!handle.has_ended().unwrap());
    handle.kill(Signal::KILL).unwrap();
    assert!(readable(&handle, Duration::from_secs(10)));
    assert!(handle.has_ended().unwrap());
    child.wait().unwrap();
    assert_eq!(handle.kill(Signal::KILL).unwrap_err().errno(), Some(libc::ESRCH));
}

#[test]
fn a_process_that_can_not_exist_is_not_found() {
    for pid in [0, u32::MAX, 0x7fff_ffff] {
        assert!(PidFd::open(pid).is_err(), "{pid}");
    }
}

#[test]
fn a_child_dies_with_the_thread_that_started_it() {
    let (child, handle) = std::thread::spawn(|| {
        let child = waiting(|command| {
            command.die_with_parent();
        });
        let handle = PidFd::open(child.id()).unwrap();
        assert!(!handle.has_ended().unwrap());
        (child, handle)
    })
    .join()
    .unwrap();
    let mut child = child;
    assert!(readable(&handle, Duration::from_secs(10)), "the child outlived its parent");
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_pinned_thread_has_one_core_and_a_missing_core_is_an_error() {
    let all = online_cores().unwrap();
    assert!(!all.is_empty());
    let last = *all.last().unwrap();
    let (pinned, refused) = std::thread::spawn(move || {
        pin_to_core(last).unwrap();
        (online_cores().unwrap(), pin_to_core(u16::MAX).is_err())
    })
    .join()
    .unwrap();
    assert_eq!((pinned, refused), (vec![last], true));
    assert_eq!(online_cores().unwrap(), all, "only that thread was pinned");
}

#[test]
fn status_fields_are_words() {
    let status = Status::read(Some(std::process::id())).unwrap();
    assert_eq!(status.field("Tgid"), [std::process::id().to_string()]);
    assert_eq!(status.field("Uid").len(), 4);
    assert!(status.field("NoSuchField").is_empty());
    assert!(Status::read(Some(u32::MAX)).is_err());
}

#[test]
fn a_child_runs_as_its_user_without_supplementary_groups() {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).as_user(65_534, 65_534);
    let mut child = match command.spawn() {
        Err(error) if rustix::process::getuid().is_root() => {
            println!("skipped: this user namespace has one user only: {error}");
            return;
        }
        child => child.unwrap(),
    };
    let status = Status::read(Some(child.id())).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(status.field("Uid"), ["65534"; 4]);
    assert_eq!(status.field("Gid"), ["65534"; 4]);
    assert!(status.field("Groups").is_empty());
}

#[test]
fn a_handle_has_its_pid_and_exit_status() {
    let mut child = waiting(|_| ());
    let handle = PidFd::from(PidFd::open(child.id()).unwrap().as_fd().try_clone_to_owned().unwrap());
    assert_eq!(handle.pid(), Some(child.id()));
    assert_eq!(handle.reap().unwrap(), None, "it runs");
    handle.kill(Signal::KILL).unwrap();
    assert!(readable(&handle, Duration::from_secs(10)));
    let status = handle.reap().unwrap().expect("it has ended");
    assert_eq!(status.signal(), Some(9), "{status}");
    assert_eq!(handle.reap().unwrap(), None, "reaped already");
    assert_eq!(handle.pid(), None);
    let _ = child.wait();

    let mut child = Command::new("false").spawn().unwrap();
    let handle = PidFd::open(child.id()).unwrap();
    assert!(readable(&handle, Duration::from_secs(10)));
    assert_eq!(handle.reap().unwrap().and_then(|status| status.code()), Some(1));
    let _ = child.wait();

    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    assert_eq!(PidFd::from(pipe).pid(), None, "no pidfd");
}

#[test]
fn the_limit_of_descriptors_is_raised_and_never_lowered() {
    let before = rustix::process::getrlimit(Resource::Nofile).current.unwrap();
    assert_eq!(raise_descriptor_limit(1).unwrap(), before);
    let now = raise_descriptor_limit(before + 1).unwrap();
    assert!(now >= before);
    assert_eq!(rustix::process::getrlimit(Resource::Nofile).current, Some(now));
}
