//! A running `mcrgen`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use mcr_sys::process::Signal;
use serde_json::Value;

use crate::child::Child;
use crate::wait::patience;
use crate::{Host, binary};

const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Longer than any test runs.
const FINISH_DEADLINE: Duration = Duration::from_secs(120);

/// The outcome of a generator.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Its JSON report; null if it printed none.
    pub json: Value,
    /// stderr.
    pub stderr: String,
}

/// `mcrgen send` or `mcrgen recv` on a host; killed when dropped.
#[derive(Debug)]
pub struct Generator {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Generator {
    /// Starts `mcrgen send --json` with these arguments.
    #[must_use]
    pub fn send(host: &Host, arguments: &[&str]) -> Self {
        Self::start(host, "send", arguments).0
    }

    /// Starts `mcrgen recv --json` with these arguments and waits until its joins are in force. Without `--idle`, it ends one second
    /// after the last datagram, or later on slow machines.
    #[must_use]
    pub fn recv(host: &Host, arguments: &[&str]) -> Self {
        let idle = patience().to_string();
        let ends = ["--idle", &idle];
        let by_default = if arguments.contains(&"--idle") { &[][..] } else { &ends };
        let (mut generator, ready) = Self::start(host, "recv", &[arguments, by_default].concat());
        match ready.recv_timeout(READY_DEADLINE * patience()) {
            Ok(()) => generator,
            Err(error) => {
                let slow = error == RecvTimeoutError::Timeout;
                generator.child.stop(Signal::KILL);
                let talk = generator.stderr.take().map(join).unwrap_or_default();
                panic!("mcrgen recv {arguments:?} {}: {talk}", if slow { "is not ready" } else { "ended" });
            }
        }
    }

    fn start(host: &Host, mode: &str, arguments: &[&str]) -> (Self, mpsc::Receiver<()>) {
        let mut command = Command::new(binary("mcrgen"));
        command.arg(mode).args(arguments).arg("--json");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Child::start(&format!("mcrgen {mode}"), host, command);
        let (announce, ready) = mpsc::channel();
        let stdout = child.process().stdout.take().map(|pipe| read(pipe, |_| {}));
        let stderr = child.process().stderr.take().map(|pipe| {
            read(pipe, move |line| {
                if line.trim() == "ready" {
                    // The receiver may have been dropped.
                    let _ = announce.send(());
                }
            })
        });
        (Self { child, stdout, stderr }, ready)
    }

    /// Stops it early (SIGINT); it still reports.
    pub fn interrupt(&self) {
        self.child.signal(Signal::INT);
    }

    /// Returns whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.ended().is_none()
    }

    /// Waits for its exit.
    #[must_use]
    pub fn outcome(mut self) -> Outcome {
        let status = self.child.wait(FINISH_DEADLINE);
        let stdout = self.stdout.take().map(join).unwrap_or_default();
        let stderr = self.stderr.take().map(join).unwrap_or_default();
        let json = serde_json::from_str(&stdout).unwrap_or(Value::Null);
        Outcome { code: status.code().unwrap_or(-1), json, stderr }
    }

    /// Waits for its exit and returns its report.
    #[must_use]
    pub fn finish(self) -> Value {
        let outcome = self.outcome();
        assert!(outcome.code == 0 && !outcome.json.is_null(), "mcrgen failed: {outcome:?}");
        outcome.json
    }
}

/// Reads a text on a thread; what is not UTF-8 ends it, and its report is invalid JSON then.
fn read(pipe: impl Read + Send + 'static, each: impl Fn(&str) + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        lines.inspect(|line| each(line)).flat_map(|line| [line, "\n".to_owned()]).collect()
    })
}

fn join(thread: JoinHandle<String>) -> String {
    thread.join().unwrap_or_default()
}
