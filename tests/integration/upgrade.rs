//! Another binary takes the daemon's place, or fails to (R8, R9).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcr_sys::clock;
use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{CtlOutput, Daemon, binary, wait_for, wait_until};

use crate::adoption::{Load, await_end, groups, identities, kill, pids, plain, seconds};
use crate::scenario::stats_without_drops;

const DEADLINE: Duration = Duration::from_secs(20);

fn upgrade(daemon: &Daemon, binary: Option<&Path>) -> CtlOutput {
    let binary = binary.map(|path| path.to_str().expect("an UTF-8 path"));
    let binary = binary.map(|binary| ["--binary", binary]);
    daemon.ctl(&[&["upgrade"][..], binary.as_ref().map_or(&[], |words| &words[..])].concat())
}

/// Waits until one supervisor is left, and returns it.
fn supervisor(daemon: &Daemon) -> u32 {
    let mut found = 0;
    wait_for("one supervisor", DEADLINE, || match daemon.supervisors()[..] {
        [one] => {
            found = one;
            Ok(())
        }
        ref others => Err(others.to_vec()),
    });
    found
}

/// Another program: the same one in another file.
fn another_mcrd(daemon: &Daemon) -> PathBuf {
    let copy = daemon.directory().join("mcrd-new");
    fs::copy(binary("mcrd"), &copy).expect("copy mcrd");
    copy
}

fn script(daemon: &Daemon, text: &str) -> PathBuf {
    let path = daemon.directory().join("mcrd-script");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

on_both_backends! {
    /// R8: the same program again keeps the workers; another one, and then a signal, replaces them. Nothing is lost or
    /// sent twice.
    fn rate_an_upgrade_costs_no_datagram(io) {
        let load = Load::new(io);
        let before = identities(&load.daemon);
        let joined = groups(&load.topology.relay);
        let first = supervisor(&load.daemon);
        let mut traffic = load.begin(seconds());
        wait_until("traffic", DEADLINE, || load.received() > 1_000);

        let counted = load.received();
        let answer = upgrade(&load.daemon, None);
        assert_eq!(answer.code, 0, "{answer:?} {}", load.daemon.log());
        let second = supervisor(&load.daemon);
        assert_ne!(first, second);
        assert!(answer.stdout.contains(&format!("process {second}")), "{answer:?}");
        assert_eq!(identities(&load.daemon), before, "the same program's workers stay");
        assert!(load.received() > counted, "counters go on");
        assert_eq!(groups(&load.topology.relay), joined);

        let answer = upgrade(&load.daemon, Some(&another_mcrd(&load.daemon)));
        assert_eq!(answer.code, 0, "{answer:?} {}", load.daemon.log());
        let third = supervisor(&load.daemon);
        assert_ne!(second, third);
        load.daemon.wait_until_active(4);
        assert_eq!(groups(&load.topology.relay), joined);
        assert!(traffic.is_running(), "the traffic ended too early");

        let workers = pids(&load.daemon);
        kill_with(third, Signal::USR2);
        wait_for("the replacement of the third", DEADLINE, || match supervisor(&load.daemon) {
            other if other != third => Ok(()),
            same => Err(same),
        });
        load.daemon.wait_until_active(4);
        assert_eq!(pids(&load.daemon), workers);
        traffic.finish();
        stats_without_drops(&load.daemon);
    }
}

fn kill_with(pid: u32, signal: Signal) {
    PidFd::open(pid).expect("a process").kill(signal).expect("a signal");
}

/// R9: what can't be started, ends at once, says nonsense or hangs leaves the old one in charge, and the next try works.
#[test]
fn a_binary_that_is_none_leaves_the_old_daemon_in_charge() {
    let load = Load::new(mcr_testnet::IoBackend::Uring);
    let (daemon, before) = (&load.daemon, identities(&load.daemon));
    let old = supervisor(daemon);
    let traffic = load.begin(seconds());
    let nonsense = script(daemon, "echo nonsense >&0; exec sleep 5");
    let text = daemon.directory().join("text");
    fs::write(&text, "no program").unwrap();
    let long_gone = daemon.directory().join("none");
    for (binary, why) in [
        (Path::new("/bin/false"), "it ended with exit status: 1"),
        (long_gone.as_path(), "can't be started: No such file"),
        (text.as_path(), "can't be started: Permission denied"),
        (nonsense.as_path(), "protocol error"),
    ] {
        let answer = upgrade(daemon, Some(binary));
        assert_ne!(answer.code, 0, "{}", binary.display());
        assert!(answer.stderr.contains(why) && answer.stderr.contains("continues"), "{why}: {answer:?}");
        assert_eq!(supervisor(daemon), old);
        assert_eq!(identities(daemon), before);
    }
    let began = clock::monotonic();
    let hangs = script(daemon, "exec sleep 60");
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| upgrade(daemon, Some(&hangs)));
        // Meanwhile it serves.
        assert_eq!(daemon.ctl(&["ping"]).code, 0);
        asking.join().expect("mcrctl")
    });
    assert!(answer.stderr.contains("was not ready in time"), "{answer:?}");
    assert!(clock::monotonic() - began < DEADLINE);
    assert_eq!(supervisor(daemon), old);
    assert_eq!(identities(daemon), before);
    let answer = upgrade(daemon, None);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_ne!(supervisor(daemon), old);
    assert_eq!(identities(daemon), before);
    traffic.finish();
    stats_without_drops(daemon);
}

/// R9: a replacement that is killed at any moment. Either the old one goes on, or, if the new one was in charge already,
/// the next start adopts what it left.
#[test]
fn a_replacement_that_is_killed_at_any_moment_costs_nothing() {
    let mut load = Load::new(mcr_testnet::IoBackend::Uring);
    let before = identities(&load.daemon);
    let traffic = load.begin(seconds());
    let (mut failed, mut done) = (0, 0);
    for round in 0..12_u32 {
        let old = supervisor(&load.daemon);
        let daemon = &load.daemon;
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| upgrade(daemon, None));
            let mut replacement = None;
            wait_until("a replacement", DEADLINE, || {
                replacement = daemon.supervisors().into_iter().find(|pid| *pid != old);
                replacement.is_some() || asking.is_finished()
            });
            let end = clock::monotonic() + Duration::from_millis(1) * round;
            while clock::monotonic() < end {
                std::hint::spin_loop();
            }
            if let Some(replacement) = replacement {
                kill(replacement);
                await_end(replacement);
            }
            asking.join().expect("mcrctl")
        });
        if answer.code == 0 {
            done += 1;
            // It may have been too quick to be seen.
            for supervisor in load.daemon.supervisors() {
                if let Ok(supervisor) = PidFd::open(supervisor) {
                    let _ = supervisor.kill(Signal::KILL);
                }
                await_end(supervisor);
            }
            load.daemon.kill();
            load.daemon.start_again(&load.topology.relay, plain);
        } else {
            failed += 1;
            let left = supervisor(&load.daemon);
            assert_eq!(left, old, "round {round}: {answer:?}");
        }
        load.daemon.wait_until_active(4);
        assert_eq!(identities(&load.daemon), before, "round {round}: {answer:?}");
    }
    println!("{failed} killed before they were in charge, {done} after");
    assert!(failed > 0);
    assert_eq!(upgrade(&load.daemon, None).code, 0, "the next try");
    assert_eq!(identities(&load.daemon), before);
    traffic.finish();
    stats_without_drops(&load.daemon);
}
