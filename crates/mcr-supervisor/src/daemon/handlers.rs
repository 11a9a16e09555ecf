//! Handlers of calls: most answer at once; those of changes, traces, explanations and upgrades are in their own
//! modules.

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::method::{
    CheckConfig, CheckReply, ConfigReply, DiffConfig, DiffEnvelope, GetConfig, GetLogLevels, GetStats,
    GetStatus, GetVersion, Handle, ListFlows, ListInterfaces, ListMemberships, ListRules, ListWorkers,
    Method, Ping, Service, SetLogLevel, Subscribe, VersionReply,
};
use mcr_control::reply::{Done, InterfacesReply, LogLevelsReply, MembershipsReply, RulesReply, WorkersReply};
use mcr_control::{INTERFACE, PROTOCOL_VERSION, versions_agree};
use mcr_link::message::ToWorker;
use mcr_rules::change::diff;
use mcr_rules::file::to_json5;
use mcr_rules::log::Facility;
use mcr_sys::clock;

use super::Daemon;
use super::changes::invalid;
use super::save::file_failure;
use crate::core::plan::WorkerId;
use crate::core::status;
use crate::request::{Call, Called, Envelope, Pending};
use crate::{altname, startup_file, statistics};

/// The daemon's version: all crates share one.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Service for Daemon {
    type Pending = Pending;
    type Call<M: Method> = Call<M>;
}

impl Daemon {
    /// Dispatches a call to the handler of its method.
    pub(super) fn handle_call(&mut self, Envelope { called, pending }: Envelope) {
        match called {
            Called::Method(request) => request.dispatch(self, pending),
            #[cfg(any(debug_assertions, feature = "fault-injection"))]
            Called::Fault { interface, fault } => {
                for id in self.executor.running().iter().filter(|id| id.interface.name == interface) {
                    self.executor.tell(id, &ToWorker::Fault(fault), &[]);
                }
                pending.answer(Ok(Done {}));
            }
        }
    }

    fn log_levels(&self) -> LogLevelsReply {
        let levels = self.log.levels();
        let facilities = Facility::ALL.map(|facility| (facility, levels.level(facility)));
        LogLevelsReply { default: levels.default, facilities: facilities.into() }
    }
}

impl Handle<GetVersion> for Daemon {
    fn handle(&mut self, GetVersion { protocol }: GetVersion, call: Call<GetVersion>) {
        call.answer(version(protocol.as_deref()));
    }
}

fn version(protocol: Option<&str>) -> Result<VersionReply, Failure> {
    if let Some(theirs) = protocol
        && !versions_agree(PROTOCOL_VERSION, theirs)
    {
        let message = format!(
            "mcrd {VERSION} speaks version {PROTOCOL_VERSION} of {INTERFACE}, and the client version {theirs:?}"
        );
        return Err(Failure::new(FailureKind::VersionMismatch, message)
            .with_hint("use the mcrctl that came with this mcrd, and restart mcrd after an upgrade"));
    }
    Ok(VersionReply { mcrd: VERSION.to_owned(), protocol: PROTOCOL_VERSION.to_owned() })
}

impl Handle<Ping> for Daemon {
    fn handle(&mut self, _: Ping, call: Call<Ping>) {
        call.answer(Ok(Done {}));
    }
}

impl Handle<CheckConfig> for Daemon {
    fn handle(&mut self, CheckConfig { config }: CheckConfig, call: Call<CheckConfig>) {
        let (rules, errors) = match config.parse() {
            Ok(config) => (config.rules.len() as u64, Vec::new()),
            Err(mut errors) => {
                altname::resolve(&mut errors);
                (0, errors)
            }
        };
        call.answer(Ok(CheckReply { rules, errors }));
    }
}

impl Handle<DiffConfig> for Daemon {
    fn handle(&mut self, DiffConfig { config }: DiffConfig, call: Call<DiffConfig>) {
        let other = match config {
            Some(text) => text.parse().map(|config| *config).map_err(invalid),
            None => startup_file::load(&self.options.config).map_err(file_failure),
        };
        let running = self.machine.config();
        call.answer(other.map(|other| DiffEnvelope { diff: diff(running, &other).into() }));
    }
}

impl Handle<GetConfig> for Daemon {
    fn handle(&mut self, _: GetConfig, call: Call<GetConfig>) {
        call.answer(Ok(ConfigReply { config: to_json5(self.machine.config()) }));
    }
}

impl Handle<GetStatus> for Daemon {
    fn handle(&mut self, _: GetStatus, call: Call<GetStatus>) {
        call.answer(Ok(self.status()));
    }
}

impl Handle<ListRules> for Daemon {
    fn handle(&mut self, _: ListRules, call: Call<ListRules>) {
        let machine = &self.machine;
        let rules = status::rules(machine.config(), machine.plan(), machine.actual());
        call.answer(Ok(RulesReply { rules }));
    }
}

impl Handle<ListWorkers> for Daemon {
    fn handle(&mut self, _: ListWorkers, call: Call<ListWorkers>) {
        let Self { machine, executor, .. } = self;
        executor.collect_kernel_drops();
        let facts = |id: &WorkerId| executor.slot(id).map(|slot| slot.facts.clone()).unwrap_or_default();
        let workers = status::workers(machine.actual(), clock::monotonic(), facts);
        call.answer(Ok(WorkersReply { workers }));
    }
}

impl Handle<ListInterfaces> for Daemon {
    fn handle(&mut self, _: ListInterfaces, call: Call<ListInterfaces>) {
        let Self { machine, .. } = self;
        let (config, plan, actual) = (machine.config(), machine.plan(), machine.actual());
        let interfaces = status::interfaces(config, plan, actual, machine.network(), machine.aggregation());
        call.answer(Ok(InterfacesReply { interfaces }));
    }
}

impl Handle<ListMemberships> for Daemon {
    fn handle(&mut self, _: ListMemberships, call: Call<ListMemberships>) {
        let memberships = status::memberships(self.machine.plan(), self.machine.actual());
        call.answer(Ok(MembershipsReply { memberships }));
    }
}

impl Handle<GetStats> for Daemon {
    fn handle(&mut self, _: GetStats, call: Call<GetStats>) {
        self.executor.collect_kernel_drops();
        call.answer(Ok(statistics::reply(&self.machine, &self.executor, &self.rates, self.bus.flows())));
    }
}

impl Handle<ListFlows> for Daemon {
    fn handle(&mut self, ListFlows { rule }: ListFlows, call: Call<ListFlows>) {
        call.answer(statistics::list_flows(&self.machine, &self.executor, self.bus.flows(), &rule));
    }
}

impl Handle<Subscribe> for Daemon {
    fn handle(&mut self, _: Subscribe, call: Call<Subscribe>) {
        call.subscribed(self.bus.subscribe(&self.machine));
    }
}

impl Handle<GetLogLevels> for Daemon {
    fn handle(&mut self, _: GetLogLevels, call: Call<GetLogLevels>) {
        call.answer(Ok(self.log_levels()));
    }
}

impl Handle<SetLogLevel> for Daemon {
    fn handle(&mut self, SetLogLevel { level, facility }: SetLogLevel, call: Call<SetLogLevel>) {
        self.log.set(facility, level);
        self.executor.worker_log.levels = self.log.levels().clone();
        self.executor.tell_all(&ToWorker::LogLevels(self.log.levels().clone()));
        call.answer(Ok(self.log_levels()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_must_agree_on_the_major_number() {
        for fine in [None, Some("1.0"), Some("1.99")] {
            assert_eq!(version(fine).unwrap().protocol, PROTOCOL_VERSION);
        }
        for wrong in ["2.0", "x"] {
            let failure = version(Some(wrong)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::VersionMismatch);
            assert!(failure.hint.is_some());
        }
    }
}
