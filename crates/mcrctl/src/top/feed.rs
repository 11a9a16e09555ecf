//! Asks the daemon once a second and subscribes to its events, in threads of their own: a daemon that does not answer does
//! not stop the keys.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mcr_control::ALIVE_INTERVAL;
use mcr_control::client::{Client, ClientError};
use mcr_control::event::EventReply;
use mcr_control::method::parameter::{Ranged, RuleFilter, RuleSelector};
use mcr_control::method::{
    EnableTrace, Explain, GetStats, GetTrace, ListFlows, ListInterfaces, ListMemberships, ListRules,
    ListWorkers, Subscribe,
};
use mcr_control::trace::{Cursor, TraceRecord, TraceState};
use mcr_rules::RuleId;

use super::snapshot::{Answer, Question, Report, Snapshot, Traced};
use crate::trace::lines::summary;

/// How often the daemon is asked.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// A round that takes long is followed by this many times its length of rest: with 10,000 rules the daemon has better
/// things to do than to list them.
const REST_FACTOR: u32 = 4;
/// How long an explanation looks at what arrives if it is to.
const LISTEN: Duration = Duration::from_secs(2);

/// A trace from the screen ends after these records and seconds: the first of them tell what people look for.
const TRACE_RECORDS: usize = 200;
const TRACE_SECONDS: u64 = 5;
/// How often a trace is asked for more.
const TRACE_EVERY: Duration = Duration::from_millis(300);

/// Where the daemon is.
pub(super) struct Source {
    pub socket: PathBuf,
    /// How long each answer may take.
    pub timeout: Duration,
    /// The moment that times count from.
    pub epoch: Instant,
}

impl Source {
    /// Reports until nobody listens any more. `stop` is never sent to: it disconnects.
    pub(super) fn follow(
        &self,
        mut client: Option<Client>,
        reports: &SyncSender<Report>,
        stop: &Receiver<()>,
    ) {
        loop {
            let (report, pause) = self.round(&mut client);
            if reports.send(report).is_err() {
                return;
            }
            if stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Reports the daemon's events until nobody listens any more. While there is no connection, [`Self::follow`] says so.
    pub(super) fn subscribe(&self, reports: &SyncSender<Report>) {
        let mut listened = true;
        while listened {
            // Without any event, the daemon sends one each ALIVE_INTERVAL.
            let subscribed =
                Client::connect(&self.socket, self.timeout + ALIVE_INTERVAL).and_then(|mut client| {
                    client.stream(&Subscribe {}, |EventReply { event }| {
                        listened = reports.send(Report::Event(Box::new(event))).is_ok();
                        if listened { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                    })
                });
            if subscribed.is_err() {
                pause(EVERY);
            }
        }
    }

    fn round(&self, client: &mut Option<Client>) -> (Report, Duration) {
        let began = now();
        let answer = match client.take() {
            Some(client) => Ok(client),
            None => self.connect(),
        };
        let asked = answer.and_then(|mut connected| {
            let snapshot = self.ask(&mut connected)?;
            *client = Some(connected);
            Ok(snapshot)
        });
        match asked {
            Ok(snapshot) => {
                let took = began.elapsed();
                let pause = EVERY.saturating_sub(took).max(took * REST_FACTOR);
                (Report::Snapshot(Box::new(snapshot)), pause)
            }
            Err(error) => (Report::Lost { wall: wall(), why: error.to_string() }, EVERY),
        }
    }

    /// Asks for an explanation, on a connection of its own: it takes as long as it listens.
    pub(super) fn explain(&self, question: Question) -> Report {
        let Question { rule, listen } = question;
        let answer = self.ask_why(rule, if listen { LISTEN } else { Duration::ZERO });
        Report::Explained { rule, answer: answer.unwrap_or_else(|error| Answer::Failed(error.to_string())) }
    }

    fn ask_why(&self, rule: RuleId, listen: Duration) -> Result<Answer, ClientError> {
        let mut client = Client::connect(&self.socket, self.timeout + listen)?;
        let listen_ms = u64::try_from(listen.as_millis()).ok().map(Ranged::clamp);
        let reply = client.call(&Explain { rule: RuleSelector::Id(rule).into(), listen_ms })?;
        let explanation = reply.rules.into_iter().find(|explained| explained.id == rule);
        let told = explanation.map(|explanation| Answer::Received {
            wall: wall(),
            listened_ms: reply.listened_ms,
            explanation: Box::new(explanation),
        });
        Ok(told.unwrap_or_else(|| Answer::Failed("mcrd has no such rule any more".to_owned())))
    }

    /// Traces a rule for a moment, and reports what it sees until that has ended or nobody listens.
    pub(super) fn trace(&self, rule: RuleId, reports: &SyncSender<Report>) {
        let report = |traced| reports.send(Report::Traced { rule, traced }).is_ok();
        if let Err(error) = self.follow_trace(rule, &report) {
            report(Traced::Failed(error.to_string()));
        }
    }

    fn follow_trace(&self, rule: RuleId, report: &impl Fn(Traced) -> bool) -> Result<(), ClientError> {
        let mut client = self.connect()?;
        client.call(&EnableTrace {
            rule: RuleSelector::Id(rule),
            sample: None,
            drops_only: None,
            max_records: u64::try_from(TRACE_RECORDS).ok().map(Ranged::clamp),
            max_seconds: Some(Ranged::clamp(TRACE_SECONDS)),
        })?;
        let (mut records, mut lost, mut after): (Vec<TraceRecord>, u64, Option<Cursor>) = Default::default();
        loop {
            let reply = client.call(&GetTrace { rule: RuleSelector::Id(rule), after })?;
            let running = reply.more || reply.state == TraceState::Running;
            lost += reply.lost;
            let summary = summary(&reply, lost);
            records.extend(reply.records);
            records.drain(..records.len().saturating_sub(TRACE_RECORDS));
            if !report(Traced::Received { records: records.clone(), summary, running }) || !running {
                return Ok(());
            }
            after = reply.next.parse().ok();
            pause(TRACE_EVERY);
        }
    }

    fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.socket, self.timeout)
    }

    fn ask(&self, client: &mut Client) -> Result<Snapshot, ClientError> {
        let version = client.version()?.mcrd;
        let status = client.status()?;
        let rules = client.call(&ListRules {})?;
        let workers = client.call(&ListWorkers {})?;
        let interfaces = client.call(&ListInterfaces {})?;
        let memberships = client.call(&ListMemberships {})?;
        let flows = client.call(&ListFlows { rule: RuleFilter::default() })?;
        let stats = client.call(&GetStats {})?;
        let at = now().saturating_duration_since(self.epoch);
        let pids = workers.workers.iter().map(|worker| worker.pid);
        let processor_ns = pids.filter_map(|pid| Some((pid, processor_ns(pid)?))).collect();
        let wall = wall();
        Ok(Snapshot {
            at,
            wall,
            version,
            status,
            rules,
            workers,
            stats,
            interfaces,
            memberships,
            flows,
            processor_ns,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "polling interval")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The processor time of a process's first thread (a worker has no other), nanoseconds: the first field of
/// /proc/PID/schedstat (Documentation/scheduler/sched-stats.rst). `None` if the process is out of sight.
fn processor_ns(pid: u32) -> Option<u64> {
    // 0 stands for no process.
    let pid = Some(pid).filter(|pid| *pid > 0)?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "the time is passed to the core")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the time is passed to the core")]
fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
