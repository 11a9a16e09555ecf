//! Finds, checks and adopts the state that an earlier supervisor left in the keeper.

use std::path::Path;

use mcr_rules::log::{CONFIG, WORKERS};
use mcr_rules::{Config, check};
use mcr_sys::clock;

use super::startup::startup_config;
use crate::core::actual::Process;
use crate::core::adoption::FoundState;
use crate::core::checkpoint::{self, Checkpoint, ConfigRecord, Key, Stored};
use crate::core::early_drop::Report;
use crate::core::ledger::Counters;
use crate::core::machine::{Event, Machine};
use crate::core::plan::WorkerId;
use crate::executor::Executor;
use crate::keeper::{self, Found, KeeperClient, KeeperGone, keeper_socket};
use crate::options::{DaemonError, DaemonOptions};

/// A keeper and its items.
#[derive(Debug)]
pub(super) struct Adoption {
    client: KeeperClient,
    stored: Stored<Found>,
}

impl Adoption {
    /// Looks for a keeper beside the control socket. One that can't be used is ended: its workers exit too, and the
    /// daemon starts without earlier state.
    pub(super) fn look_for(socket: &Path, own_uid: u32) -> Option<Self> {
        let keeper_socket = keeper_socket(&std::path::absolute(socket).ok()?);
        let start_fresh = |error: KeeperGone| {
            tracing::error!(
                target: WORKERS,
                "the keeper of an earlier mcrd can't be used, starting afresh: {error}"
            );
            None
        };
        let client = match keeper::connect(&keeper_socket, own_uid) {
            Ok(client) => client?,
            Err(error) => {
                error.end();
                return start_fresh(error);
            }
        };
        match read(&client) {
            Ok(stored) => Some(Self { client, stored }),
            Err(error) => {
                client.kill();
                start_fresh(error)
            }
        }
    }

    /// Finds the keeper, which must exist, and does not end it if it can't be used.
    pub(super) fn find(socket: &Path, own_uid: u32) -> Result<Self, DaemonError> {
        let failed = |error: &dyn std::fmt::Display| DaemonError::TakeOver(format!("the keeper: {error}"));
        let socket = std::path::absolute(socket).map_err(|error| failed(&error))?;
        let client = keeper::connect(&keeper_socket(&socket), own_uid).map_err(|error| failed(&error))?;
        let client = client.ok_or_else(|| failed(&"there is none"))?;
        let stored = read(&client).map_err(|error| failed(&error))?;
        Ok(Self { client, stored })
    }

    /// Checks that the state can be adopted, without adopting it.
    pub(super) fn check_adoptable(options: &DaemonOptions, own_uid: u32) -> Result<(), DaemonError> {
        let found = Self::find(&options.socket, own_uid)?;
        checkpoint::check(&found.stored).map_err(|error| DaemonError::TakeOver(error.to_string()))?;
        if found.config(options).is_none() {
            startup_config(options)?;
        }
        Ok(())
    }

    /// Returns the stored config, if it is from the same startup file.
    pub(super) fn config(&self, options: &DaemonOptions) -> Option<Config> {
        let record = self.running_config()?;
        let file = options.config.display();
        if record.startup_file != file.to_string() {
            tracing::warn!(
                target: CONFIG,
                "mcrd ran with {} before and is now started with {file}, which is applied", record.startup_file
            );
            return None;
        }
        let violations = check(&record.config);
        if let Some(violation) = violations.first() {
            let (path, message) = (&violation.path, &violation.message);
            tracing::error!(target: CONFIG, "the previous running config is not valid: {path}: {message}");
            return None;
        }
        tracing::info!(
            target: CONFIG,
            rules = record.config.rules.len(),
            "the running config stays in force; {file} is not read (`mcrctl diff` compares, SIGHUP loads it)"
        );
        Some(record.config)
    }

    fn running_config(&self) -> Option<ConfigRecord> {
        checkpoint::read_config(&self.stored).unwrap_or_else(|error| {
            tracing::error!(target: CONFIG, "the stored running config is not used: {error}");
            None
        })
    }

    /// Adopts everything. Returns what happened, for the log.
    pub(super) fn enter(self, machine: &mut Machine, executor: &mut Executor) -> String {
        let now = clock::monotonic();
        let config = self.running_config();
        let Self { client, stored } = self;
        executor.use_keeper(client, Checkpoint::found(stored.keys().cloned()), now);
        let found = executor.adopt(stored);
        let running =
            |process: &Process| matches!(process, Process::Running { .. } | Process::Starting { .. });
        let workers = found.workers.iter().filter(|worker| running(&worker.process)).count();
        let groups = found.memberships.len();
        let adopted = FoundState { config, ..found }.adopt(machine.network(), now);
        let page = |id: &WorkerId| executor.slot(id).map(|slot| &slot.reader as &dyn Counters);
        machine.handle(now, Event::Adopted { adopted: Box::new(adopted), page: &page });
        if executor.has_attacher() {
            machine.handle(now, Event::EarlyDrop(Report::Present));
        }
        executor.end_kernel_engine_without_attacher(machine, now);
        format!("adopted {workers} workers and {groups} memberships of an earlier mcrd")
    }
}

fn read(client: &KeeperClient) -> Result<Stored<Found>, KeeperGone> {
    Ok(client.read()?.into_iter().map(|(name, found)| (Key::parse(&name), found)).collect())
}
