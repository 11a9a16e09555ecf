//! A child process that never outlives its owner.

use std::process::{Child as Process, Command, ExitStatus};
use std::time::Duration;

use mcr_sys::process::{CommandExt, PidFd, Signal};

use crate::{Host, wait_for};

/// Time for a child to exit after a request.
const END_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: Process,
    handle: PidFd,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts a program on a host.
    pub(crate) fn start(name: &str, host: &Host, mut command: Command) -> Self {
        host.namespace().apply_to(&mut command).expect("duplicate a namespace");
        let process = command
            .die_with_parent()
            .spawn()
            .unwrap_or_else(|error| panic!("start {name} ({command:?}): {error}"));
        let handle = PidFd::open(process.id()).unwrap_or_else(|error| panic!("watch {name}: {error}"));
        Self { name: name.to_owned(), process, handle, status: None }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Returns its exit status, if it has exited.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.process.try_wait().expect("wait for a child");
        }
        self.status
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // A child that has exited needs no signal.
        let _ = self.handle.kill(signal);
    }

    /// Waits for its exit.
    pub(crate) fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, deadline, || self.ended().ok_or("still running"))
    }

    /// Sends the signal, and waits for its exit.
    pub(crate) fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait(END_DEADLINE)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::KILL);
            let _ = self.process.wait();
        }
    }
}
