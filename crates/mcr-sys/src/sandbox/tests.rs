use std::os::fd::AsFd;

use super::filter::Descriptors;
use super::lists::{Check, KEEPER, List, OBSERVER, WORKER_IO_URING, WORKER_RECVMMSG};
use super::*;
use crate::test_env::interpreter::{Verdict, verdict};

const LISTS: [&List; 4] = [&WORKER_IO_URING, &WORKER_RECVMMSG, &KEEPER, &OBSERVER];

/// R39: at most 16 system calls.
#[test]
fn the_lists_are_short_and_name_each_call_once() {
    for list in LISTS {
        let mut numbers: Vec<_> = list.allowed.iter().map(|call| call.number).collect();
        numbers.extend(list.refused.iter().map(|call| call.number));
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{}: a call is named twice", list.name);
        assert!(list.allowed.len() <= 16, "{}: {} calls", list.name, list.allowed.len());
    }
    assert!(crate::uring::OPERATIONS.len() <= 6 && crate::uring::REGISTER_OPERATIONS.len() <= 2);
}

/// For each of the first 1,024 numbers, and arguments at and beside what the checks name: exactly what the list says.
#[test]
fn a_program_decides_as_its_list_says() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let capture = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(&file)).unwrap();
    let descriptors = Descriptors { captures: &[file.as_fd()] };
    for list in LISTS {
        let filter = Filter::new(list, Some(&descriptors)).unwrap();
        let decide = |number, arguments| verdict(filter.instructions(), number, arguments);
        for number in 0..1_024_u32 {
            let call = list.allowed.iter().find(|call| call.number == i64::from(number));
            let refused = list.refused.iter().find(|call| call.number == i64::from(number));
            let Some(call) = call else {
                let expected = refused.map_or(Verdict::Kill, |refused| Verdict::Errno(refused.errno));
                assert_eq!(decide(number, [0; 6]), expected, "{}: call {number}", list.name);
                continue;
            };
            let mut passing = [0; 6];
            for check in call.checks {
                let (argument, value) = match check {
                    Check::OneOf(argument, values) => (argument, values[0]),
                    Check::NoBits(argument, bits) => (argument, !bits),
                    Check::Is(argument, _) => (argument, capture),
                    Check::IsNot(argument, _) => (argument, capture + 1),
                };
                passing[usize::from(*argument)] = u64::from(value);
            }
            assert_eq!(decide(number, passing), Verdict::Allow, "{}: {}", list.name, call.name);
            for check in call.checks {
                let (argument, value) = match check {
                    Check::OneOf(argument, values) => {
                        for value in *values {
                            let mut other = passing;
                            other[usize::from(*argument)] = u64::from(*value);
                            assert_eq!(decide(number, other), Verdict::Allow, "{check:?}");
                        }
                        (argument, values.iter().max().unwrap().wrapping_add(1))
                    }
                    Check::NoBits(argument, bits) => (argument, *bits),
                    Check::Is(argument, _) => (argument, capture + 1),
                    Check::IsNot(argument, _) => (argument, capture),
                };
                let mut failing = passing;
                failing[usize::from(*argument)] = u64::from(value);
                let what = format!("{}: {} with {check:?} violated", list.name, call.name);
                assert_eq!(decide(number, failing), Verdict::Kill, "{what}");
            }
        }
    }
    assert!(Filter::new(&WORKER_IO_URING, None).is_err(), "its capture socket is not known");
    assert!(Filter::new(&KEEPER, None).is_ok());
}

/// A call of the other architectures' numbering is no way around.
#[test]
fn foreign_architectures_are_refused() {
    use crate::test_env::interpreter::verdict_on;
    const I386: u32 = 0x4000_0003;
    let filter = Filter::new(&KEEPER, None).unwrap();
    for number in 0..1_024 {
        assert_eq!(verdict_on(filter.instructions(), I386, number, [0; 6]), Verdict::Kill);
        // x86-64's numbers with pointers of 32 bits (x32).
        assert_eq!(verdict(filter.instructions(), number | 0x4000_0000, [0; 6]), Verdict::Kill);
    }
}

/// In force for a thread: a listed call works, a refused one fails, another kills the process. The process is this test's own
/// child, a `sleep` that never gets that far.
#[test]
fn an_unlisted_call_kills() {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let filter = Filter::new(&KEEPER, None).unwrap();
    let mut command = std::process::Command::new("sleep");
    command.arg("60");
    // SAFETY: between fork and exec only system calls run, without allocation or locks.
    let command = unsafe {
        command.pre_exec(move || {
            rustix::thread::set_no_new_privs(true)?;
            filter.install().map_err(std::io::Error::other)
        })
    };
    // Its execve(2) kills the child.
    assert_eq!(command.spawn().unwrap().wait().unwrap().signal(), Some(libc::SIGSYS));
}

#[test]
fn landlock_denies_files_to_the_thread_that_asked() {
    let outcome = std::thread::spawn(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        landlock().map(|version| (version, std::fs::File::open("/etc/hostname").map(drop)))
    });
    match outcome.join().unwrap() {
        Ok((version, opened)) => {
            assert!(version >= 1);
            assert_eq!(opened.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        }
        Err(error) => {
            let known = [Some(libc::ENOSYS), Some(libc::EOPNOTSUPP)];
            assert!(known.contains(&error.errno()), "{error}: neither in force nor missing");
        }
    }
    assert!(std::fs::File::open("/proc/self/status").is_ok(), "this thread is not in the domain");
}

#[test]
fn the_kernel_has_filters() {
    assert!(is_available());
}
