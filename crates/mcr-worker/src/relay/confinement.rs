//! Confines a worker once everything that it needs is open: no files, no system call that is not in its list.

use std::os::fd::BorrowedFd;

use mcr_link::log::LogControl;
use mcr_link::message::IoBackend;
use mcr_rules::SandboxChoice;
use mcr_sys::SysError;
use mcr_sys::sandbox::filter::Descriptors;
use mcr_sys::sandbox::lists::{WORKER_IO_URING, WORKER_RECVMMSG};
use mcr_sys::sandbox::{self, Filter};

/// The layers in force, by the names that `mcrctl workers` shows, and why others are not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Confinement {
    pub(super) layers: Vec<String>,
    pub(super) notes: Vec<String>,
}

impl Confinement {
    fn record(
        &mut self,
        choice: SandboxChoice,
        layer: &str,
        outcome: Result<String, SysError>,
    ) -> Result<(), SysError> {
        match outcome {
            Ok(name) => self.layers.push(name),
            Err(error) if choice == SandboxChoice::On => return Err(error),
            Err(error) => self.notes.push(format!("the sandbox has no layer {layer}: {error}")),
        }
        Ok(())
    }
}

/// Starts the log's thread and confines both threads. After it nothing runs that makes another system call than those listed in
/// `mcr_sys::sandbox::lists`.
///
/// # Errors
/// A layer is missing and the choice is `on`, or a thread could not be confined like the other.
pub(super) fn confine(
    choice: SandboxChoice,
    io: IoBackend,
    captures: &[BorrowedFd<'_>],
    log: &LogControl,
) -> Result<Confinement, SysError> {
    let mut confinement = Confinement::default();
    if choice == SandboxChoice::Off {
        log.spawn_writer();
        return Ok(confinement);
    }
    // Before the thread starts, so that it inherits it.
    let landlock = sandbox::landlock().map(|version| format!("landlock {version}"));
    confinement.record(choice, "landlock", landlock)?;
    let (list, ring) = match io {
        IoBackend::IoUring => (&WORKER_IO_URING, true),
        IoBackend::Recvmmsg => (&WORKER_RECVMMSG, false),
    };
    if ring {
        confinement.layers.push("ring".to_owned());
    }
    if !sandbox::is_available() {
        log.spawn_writer();
        let missing = SysError::invalid("prctl PR_SET_SECCOMP", "the kernel has no system call filters");
        confinement.record(choice, "seccomp", Err(missing))?;
        return Ok(confinement);
    }
    let filter = Filter::new(list, Some(&Descriptors { captures }))?;
    let of_thread = filter.clone();
    log.spawn_confined_writer(move || of_thread.install())?;
    filter.install()?;
    confinement.layers.push("seccomp".to_owned());
    Ok(confinement)
}
