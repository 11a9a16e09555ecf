//! The methods of `io.mcr.Control` as a client calls them: a value holds the parameters, its type knows the name and
//! the reply.

use mcr_rules::{Rule, RuleId, RuleName};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::reply;

/// A method with its parameters.
pub trait Method: Serialize {
    /// The name with the interface.
    const NAME: &'static str;
    /// What a successful reply holds.
    type Reply: DeserializeOwned;
}

/// Declares the methods: a struct with the parameters each, and the reply's type.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* } -> $reply:ty;)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Serialize)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

            impl Method for $name {
                const NAME: &'static str = concat!("io.mcr.Control.", stringify!($name));
                type Reply = $reply;
            }
        )+

        /// The names of all methods, without the interface.
        pub const NAMES: &[&str] = &[$(stringify!($name)),+];
    };
}

methods! {
    /// The versions of the daemon.
    GetVersion {
        /// The caller's [`crate::PROTOCOL_VERSION`].
        protocol: Option<String>,
    } -> reply::VersionReply;
    /// Is the daemon's loop alive?
    Ping {} -> IgnoredAny;
    /// Adds a rule.
    AddRule {
        /// The rule.
        rule: Rule,
    } -> reply::RuleReply;
    /// Takes a rule out; exactly one of the two is given.
    RemoveRule {
        /// By id.
        id: Option<RuleId>,
        /// By name.
        name: Option<RuleName>,
    } -> reply::RuleReply;
    /// The rules and their states.
    ListRules {} -> reply::RulesReply;
    /// The running config.
    GetConfig {} -> reply::ConfigReply;
    /// Checks a config.
    CheckConfig {
        /// The text.
        config: String,
    } -> reply::CheckReply;
    /// What a load would change.
    DiffConfig {
        /// The text; `None` for the startup file.
        config: Option<String>,
    } -> DiffEnvelope;
    /// Changes the running config.
    LoadConfig {
        /// The text.
        config: String,
        /// Whether rules that are not in the text go.
        replace: bool,
        /// Whether nothing is to change yet.
        dry_run: bool,
        /// The change returns after so many seconds unless it is confirmed.
        confirm_s: Option<u64>,
    } -> reply::LoadReply;
    /// Keeps the load that waits to be confirmed.
    Confirm {
        /// Return to the config before it instead.
        revert: bool,
    } -> IgnoredAny;
    /// Writes the running config to a file.
    SaveConfig {
        /// An absolute path; `None` for the startup file.
        path: Option<String>,
    } -> reply::SaveReply;
    /// What an operator should know of the daemon.
    GetStatus {} -> reply::StatusReply;
    /// The workers.
    ListWorkers {} -> reply::WorkersReply;
    /// The interfaces.
    ListInterfaces {} -> reply::InterfacesReply;
    /// The memberships.
    ListMemberships {} -> reply::MembershipsReply;
    /// Why a rule relays or does not; without either, all rules and the host.
    Explain {
        /// By id.
        id: Option<RuleId>,
        /// By name.
        name: Option<RuleName>,
        /// How long to look at what arrives, milliseconds; 0 for not at all.
        listen_ms: Option<u64>,
    } -> crate::explanation::ExplainReply;
    /// The counters.
    GetStats {} -> reply::StatsReply;
    /// Who sends to the rules; without either, to all.
    ListFlows {
        /// By id.
        id: Option<RuleId>,
        /// By name.
        name: Option<RuleName>,
    } -> reply::FlowsReply;
    /// What happens from now on; a reply each.
    Subscribe {} -> crate::event::EventReply;
    /// Writes down what becomes of a rule's datagrams; exactly one of `id` and `name` is given.
    EnableTrace {
        /// By id.
        id: Option<RuleId>,
        /// By name.
        name: Option<RuleName>,
        /// One of so many datagrams; `None` for all.
        sample: Option<u64>,
        /// Only what is skipped or dropped.
        drops_only: bool,
        /// It ends after so many records.
        max_records: Option<u64>,
        /// It ends after so many seconds.
        max_seconds: Option<u64>,
    } -> reply::RuleReply;
    /// Ends a rule's trace; exactly one of the two is given.
    DisableTrace {
        /// By id.
        id: Option<RuleId>,
        /// By name.
        name: Option<RuleName>,
    } -> reply::RuleReply;
    /// What was written down; exactly one of `id` and `name` is given.
    GetTrace {
        /// By id.
        id: Option<RuleId>,
        /// By name.
        name: Option<RuleName>,
        /// `next` of the reply before.
        after: Option<String>,
    } -> crate::trace::TraceReply;
    /// The log levels.
    GetLogLevels {} -> reply::LogLevelsReply;
    /// Sets a log level.
    SetLogLevel {
        /// The level.
        level: String,
        /// The facility; `None` for all.
        facility: Option<String>,
    } -> reply::LogLevelsReply;
    /// Lets another binary take the daemon's place.
    Upgrade {
        /// An absolute path; `None` for the daemon's own file on disk.
        binary: Option<String>,
    } -> reply::UpgradeReply;
}

/// The reply of `DiffConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct DiffEnvelope {
    /// What would change.
    pub diff: reply::DiffReply,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_description_has_these_methods_and_no_others() {
        let described: Vec<&str> = crate::DESCRIPTION
            .lines()
            .filter_map(|line| line.strip_prefix("method "))
            .filter_map(|rest| rest.split_once('(').map(|(name, _)| name))
            .collect();
        assert_eq!(described, NAMES);
    }

    #[test]
    fn the_interface_description_has_these_errors_and_no_others() {
        let described: Vec<&str> = crate::DESCRIPTION
            .lines()
            .filter_map(|line| line.strip_prefix("error "))
            .filter_map(|rest| rest.split_once(' ').map(|(name, _)| name))
            .collect();
        assert_eq!(described, crate::failure::FailureKind::ALL.map(crate::failure::FailureKind::name));
    }
}
