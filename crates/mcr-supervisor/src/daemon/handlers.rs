//! Requests that are answered at once.

use std::path::{Path, PathBuf};

use mcr_control::reply::{
    ConfigReply, DiffReply, InterfacesReply, LogLevelsReply, MembershipsReply, RulesReply, SaveReply,
    WorkersReply,
};
use mcr_link::log::{CONFIG, CONTROL, FACILITIES, Level};
use mcr_link::message::ToWorker;
use mcr_rules::Config;
use mcr_rules::change::diff;
use mcr_rules::file::to_json5;
use mcr_sys::clock;
use tokio::sync::oneshot;

use super::Daemon;
use super::changes::{confirmation_pending, reply};
use crate::core::plan::WorkerId;
use crate::core::status;
use crate::request::{Answer, Envelope, Reply, Request, RequestError, RequestErrorKind};
use crate::startup_file::{self, Saved, StartupError};
use crate::statistics;

impl Daemon {
    pub(super) fn request(&mut self, envelope: Envelope) {
        let Envelope { request, peer, answer } = envelope;
        match request {
            Request::AddRule(_)
            | Request::RemoveRule(_)
            | Request::LoadConfig { .. }
            | Request::Confirm { .. } => {
                tracing::debug!(target: CONFIG, uid = peer.uid, pid = peer.pid, ?request);
                self.queue_change(request, Some(answer));
            }
            Request::SaveConfig { path } => self.save(path, answer),
            Request::Subscribe => {
                let subscription = self.bus.subscribe(&self.machine);
                reply(Some(answer), Ok(Reply::Subscribed(subscription)));
            }
            Request::Explain { rule, listen } => self.begin_explanation(rule, listen, answer),
            Request::Upgrade { binary } => {
                tracing::info!(target: CONTROL, uid = peer.uid, pid = peer.pid, "upgrade asked for");
                self.begin_upgrade(binary, Some(answer));
            }
            Request::EnableTrace { rule, options } => {
                let result = self.enable_trace(&rule, options);
                reply(Some(answer), result);
            }
            Request::DisableTrace { rule } => {
                let result = self.disable_trace(&rule);
                reply(Some(answer), result);
            }
            Request::GetTrace { rule, after, frames } => {
                let result = self.get_trace(&rule, after.as_ref(), frames);
                reply(Some(answer), result);
            }
            other => {
                let result = self.answer(other);
                reply(Some(answer), result);
            }
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        if matches!(request, Request::GetStatus) {
            return Ok(Reply::Status(self.status()));
        }
        let Self { machine, executor, rates, bus, .. } = self;
        let (config, plan, actual) = (machine.config(), machine.plan(), &machine.actual);
        Ok(match request {
            Request::ListRules => Reply::Rules(RulesReply { rules: status::rules(config, plan, actual) }),
            Request::GetConfig => Reply::Config(ConfigReply { config: to_json5(config) }),
            Request::DiffConfig { config: other } => {
                let other = match other {
                    Some(other) => *other,
                    None => startup_file::load(&self.options.config).map_err(file_failure)?,
                };
                Reply::Diff(DiffReply::from(diff(config, &other)))
            }
            Request::ListWorkers => {
                executor.collect_kernel_drops();
                let facts =
                    |id: &WorkerId| executor.slot(id).map(|slot| slot.facts().clone()).unwrap_or_default();
                Reply::Workers(WorkersReply { workers: status::workers(actual, clock::monotonic(), facts) })
            }
            Request::ListInterfaces => Reply::Interfaces(InterfacesReply {
                interfaces: status::interfaces(config, machine.network()),
            }),
            Request::ListMemberships => {
                Reply::Memberships(MembershipsReply { memberships: status::memberships(plan, actual) })
            }
            Request::GetStats => {
                executor.collect_kernel_drops();
                Reply::Stats(statistics::reply(machine, executor, rates, bus.flows()))
            }
            Request::ListFlows { rule } => {
                Reply::Flows(statistics::list_flows(machine, executor, bus.flows(), rule)?)
            }
            Request::GetLogLevels => Reply::LogLevels(self.log_levels()),
            Request::SetLogLevel { facility, level } => self.set_log_level(facility.as_deref(), level)?,
            #[cfg(any(debug_assertions, feature = "fault-injection"))]
            Request::InjectFault { interface, fault } => {
                for id in executor.running().iter().filter(|id| id.interface.name == interface) {
                    executor.tell(id, &ToWorker::Fault(fault), &[]);
                }
                Reply::Done
            }
            // The others were taken before.
            Request::Ping
            | Request::AddRule(_)
            | Request::RemoveRule(_)
            | Request::LoadConfig { .. }
            | Request::Confirm { .. }
            | Request::GetStatus
            | Request::Explain { .. }
            | Request::Subscribe
            | Request::Upgrade { .. }
            | Request::EnableTrace { .. }
            | Request::DisableTrace { .. }
            | Request::GetTrace { .. }
            | Request::SaveConfig { .. } => Reply::Done,
        })
    }

    /// Disks can be slow; the loop goes on meanwhile.
    fn save(&mut self, path: Option<PathBuf>, answer: oneshot::Sender<Answer>) {
        let is_startup_file = path.is_none();
        // It would outlive the trial.
        if is_startup_file && let Some(until) = self.machine.trial_deadline() {
            reply(Some(answer), Err(confirmation_pending(until)));
            return;
        }
        let path = path.unwrap_or_else(|| self.options.config.clone());
        let config: Config = self.machine.config().clone();
        let (notices, copy) = (self.notices.clone(), self.options.last_good.clone());
        tokio::task::spawn_blocking(move || {
            let result = startup_file::save(&path, &config);
            if result.is_ok() && is_startup_file {
                notices.startup_file_in_force();
                copy.iter().for_each(|copy| keep_copy(copy, &path, &config));
            }
            reply(Some(answer), result.map_err(file_failure).map(saved));
        });
    }

    /// Keeps what came from the startup file for `--last-good`.
    pub(super) fn keep_last_good(&self) {
        let Some(copy) = self.options.last_good.clone() else { return };
        let (path, config) = (self.options.config.clone(), self.machine.config().clone());
        tokio::task::spawn_blocking(move || keep_copy(&copy, &path, &config));
    }

    fn set_log_level(&mut self, facility: Option<&str>, level: Level) -> Result<Reply, RequestError> {
        self.log
            .set(facility, level)
            .map_err(|error| RequestError::new(RequestErrorKind::InvalidConfig, error.to_string()))?;
        self.executor.terms.log_levels = self.log.levels().clone();
        self.executor.tell_all(&ToWorker::LogLevels(self.log.levels().clone()));
        Ok(Reply::LogLevels(self.log_levels()))
    }

    fn log_levels(&self) -> LogLevelsReply {
        let levels = self.log.levels();
        LogLevelsReply {
            default: levels.default.to_string(),
            facilities: FACILITIES
                .iter()
                .map(|name| ((*name).to_owned(), levels.level(name).to_string()))
                .collect(),
        }
    }
}

fn keep_copy(copy: &Path, startup_file: &Path, config: &Config) {
    match startup_file::keep_copy(copy, startup_file, config) {
        Ok(()) => tracing::debug!(target: CONFIG, file = %copy.display(), "kept as the last good file"),
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            tracing::error!(target: CONFIG, hint, "the last good file can't be kept: {error}");
        }
    }
}

fn saved(saved: Saved) -> Reply {
    let Saved { path, backup } = saved;
    tracing::info!(target: CONFIG, file = %path.display(), "saved");
    if let Some(backup) = &backup {
        tracing::info!(target: CONFIG, file = %backup.display(), "the file before had comments and is kept");
    }
    Reply::Saved(SaveReply {
        path: path.display().to_string(),
        backup: backup.map(|backup| backup.display().to_string()),
    })
}

fn file_failure(error: StartupError) -> RequestError {
    match error {
        StartupError::Invalid { errors, .. } => RequestError::invalid(errors),
        other => {
            let hint = other.hint();
            let failure = RequestError::new(RequestErrorKind::FileFailed, other.to_string());
            match hint {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            }
        }
    }
}
