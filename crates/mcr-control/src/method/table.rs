//! The table of methods, and the replies that only one of them has. [`crate::DESCRIPTION`] documents each method; a test
//! compares the two.

use mcr_rules::file::ConfigError;
use mcr_rules::log::{Facility, Level};
use serde::{Deserialize, Serialize};

use super::parameter::{
    AbsolutePath, ConfigText, Entry, Parameter, Ranged, RuleFilter, RuleSelector, RuleText, no_others,
};
use super::{Description, Handle, Method, ReplyBody, Right, Service, Weight};
use crate::message::{CallError, Parameters};
use crate::trace::{Cursor, MAX_TRACE_RECORDS, MAX_TRACE_S, MAX_TRACE_SAMPLE};
use crate::{MAX_CONFIRM_S, MAX_LISTEN_MS, event, explanation, reply, trace};

/// Declares the methods: right, weight, name, parameters, reply, and what the trait [`Method`] has beside its defaults.
macro_rules! methods {
    ($(
        $(#[$doc:meta])*
        $right:ident $weight:ident $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* } -> $reply:ty
        $({ $($beside:tt)* })?;
    )+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

            impl Method for $name {
                const NAME: &'static str = concat!("io.mcr.Control.", stringify!($name));
                const RIGHT: Right = Right::$right;
                const WEIGHT: Weight = Weight::$weight;
                type Reply = $reply;

                fn read(parameters: &mut Parameters) -> Result<Self, CallError> {
                    let call = Self { $($field: Parameter::take(parameters, stringify!($field))?,)* };
                    no_others(parameters)?;
                    Ok(call)
                }

                fn parameters(&self) -> Result<Parameters, serde_json::Error> {
                    let entries: Vec<Entry> = vec![$(self.$field.entry(stringify!($field)),)*];
                    let given = entries.into_iter().filter_map(Result::transpose);
                    given.map(|entry| entry.map(|(key, value)| (key.to_owned(), value))).collect()
                }

                $($($beside)*)?
            }
        )+

        /// A call of one of the methods, as the server reads it.
        #[derive(Clone, Debug)]
        pub enum Request {
            $(
                #[doc = concat!("See [`struct@", stringify!($name), "`].")]
                $name($name),
            )+
        }

        impl Request {
            /// Every method.
            pub const METHODS: &[Description] = &[$(Description {
                name: $name::NAME,
                right: $name::RIGHT,
                carries_config: $name::CARRIES_CONFIG,
            }),+];

            /// Reads the parameters of a call.
            ///
            /// # Errors
            /// There is no such method, or as [`Method::read`].
            pub fn read(method: &str, mut parameters: Parameters) -> Result<Self, CallError> {
                match method {
                    $($name::NAME => Method::read(&mut parameters).map(Self::$name),)+
                    _ => Err(CallError::MethodNotFound { method: method.to_owned() }),
                }
            }

            /// See [`Method::owner_parameter`].
            #[must_use]
            pub fn owner_parameter(&self) -> Option<&'static str> {
                match self { $(Self::$name(call) => call.owner_parameter(),)+ }
            }

            /// See [`Method::weight`].
            #[must_use]
            pub fn weight(&self) -> Weight {
                match self { $(Self::$name(call) => call.weight(),)+ }
            }

            /// See [`Method::REPEATS`].
            #[must_use]
            pub fn repeats(&self) -> bool {
                match self { $(Self::$name(_) => $name::REPEATS,)+ }
            }

            /// Has the call answered by the handler of its method.
            pub fn dispatch<S: Handlers>(self, service: &mut S, pending: S::Pending) {
                match self { $(Self::$name(call) => service.handle(call, pending.into()),)+ }
            }
        }

        /// A server with a handler for every method.
        pub trait Handlers: Service $(+ Handle<$name>)+ {}

        impl<S: Service $(+ Handle<$name>)+> Handlers for S {}

        /// The keys of each method's parameters, and whether they may be left out.
        #[cfg(test)]
        pub(super) fn parameter_keys() -> Vec<(&'static str, Vec<(&'static str, bool)>)> {
            vec![$(($name::NAME, {
                let keys: Vec<Vec<_>> = vec![$(<$type as Parameter>::keys(stringify!($field)),)*];
                keys.concat()
            }),)+]
        }

        /// The keys of each method's reply.
        #[cfg(test)]
        pub(super) fn reply_keys() -> Vec<(&'static str, &'static [&'static str])> {
            vec![$(($name::NAME, super::tests::fields::<$reply>()),)+]
        }
    };
}

methods! {
    /// The versions of the daemon.
    Read Light GetVersion {
        /// The caller's [`crate::PROTOCOL_VERSION`].
        protocol: Option<String>,
    } -> VersionReply;

    /// Answered by the daemon's main loop: it is alive.
    Read Light Ping {} -> reply::Done;

    /// Adds a rule.
    Change Light AddRule {
        /// The rule.
        rule: RuleText,
    } -> reply::RuleReply;

    /// Removes a rule.
    Change Light RemoveRule {
        /// Which.
        rule: RuleSelector,
    } -> reply::RuleReply;

    /// The rules and their states.
    Read Heavy ListRules {} -> reply::RulesReply;

    /// The running config.
    Read Heavy GetConfig {} -> ConfigReply;

    /// Checks a config.
    Read Light CheckConfig {
        /// The text.
        config: ConfigText,
    } -> CheckReply {
        const CARRIES_CONFIG: bool = true;
    };

    /// What a load would change.
    Read Heavy DiffConfig {
        /// The text; `None` for the startup file.
        config: Option<ConfigText>,
    } -> DiffEnvelope {
        const CARRIES_CONFIG: bool = true;
    };

    /// Changes the running config.
    Change Light LoadConfig {
        /// The text.
        config: ConfigText,
        /// Rules that are not in the text are removed.
        replace: Option<bool>,
        /// Nothing changes.
        dry_run: Option<bool>,
        /// The change is undone after this time unless it is confirmed, seconds.
        confirm_s: Option<Ranged<1, MAX_CONFIRM_S>>,
    } -> reply::LoadReply {
        const CARRIES_CONFIG: bool = true;

        fn weight(&self) -> Weight {
            if self.dry_run == Some(true) { Weight::Heavy } else { Weight::Light }
        }
    };

    /// Keeps the load that waits to be confirmed.
    Change Light Confirm {
        /// Undo it instead.
        revert: Option<bool>,
    } -> reply::Done;

    /// Writes the running config to a file.
    Change Light SaveConfig {
        /// The file; `None` for the startup file.
        path: Option<AbsolutePath>,
    } -> SaveReply {
        // A file anywhere, written by root for a member of group `mcr`, would make that member root.
        fn owner_parameter(&self) -> Option<&'static str> {
            self.path.is_some().then_some("path")
        }
    };

    /// What an operator should know of the daemon.
    Read Light GetStatus {} -> reply::StatusReply;

    /// The workers.
    Read Light ListWorkers {} -> reply::WorkersReply;

    /// The interfaces.
    Read Heavy ListInterfaces {} -> reply::InterfacesReply;

    /// The memberships.
    Read Heavy ListMemberships {} -> reply::MembershipsReply;

    /// Why a rule relays or does not; of all rules, and of the host.
    Read Light Explain {
        /// Which.
        rule: RuleFilter,
        /// How long to listen for what arrives, milliseconds; 0 for not at all.
        listen_ms: Option<Ranged<0, MAX_LISTEN_MS>>,
    } -> explanation::ExplainReply;

    /// The counters.
    Read Heavy GetStats {} -> reply::StatsReply {
        const REPEATS: bool = true;
    };

    /// Who sends to the rules.
    Read Heavy ListFlows {
        /// To which.
        rule: RuleFilter,
    } -> reply::FlowsReply;

    /// Events from now on, a reply each.
    Read Light Subscribe {} -> event::EventReply;

    /// Records what becomes of a rule's datagrams.
    Change Light EnableTrace {
        /// Which rule.
        rule: RuleSelector,
        /// One of this number of datagrams; `None` for all.
        sample: Option<Ranged<1, MAX_TRACE_SAMPLE>>,
        /// Only what is skipped or dropped.
        drops_only: Option<bool>,
        /// The trace ends after this number of records.
        max_records: Option<Ranged<1, MAX_TRACE_RECORDS>>,
        /// The trace ends after this time, seconds.
        max_seconds: Option<Ranged<1, MAX_TRACE_S>>,
    } -> reply::RuleReply;

    /// Ends a rule's trace.
    Change Light DisableTrace {
        /// Which rule.
        rule: RuleSelector,
    } -> reply::RuleReply;

    /// The records of a trace.
    Read Heavy GetTrace {
        /// Which rule.
        rule: RuleSelector,
        /// `next` of the reply before.
        after: Option<Cursor>,
    } -> trace::TraceReply;

    /// The log levels.
    Read Light GetLogLevels {} -> reply::LogLevelsReply;

    /// Sets a log level.
    Change Light SetLogLevel {
        /// The level.
        level: Level,
        /// The facility; `None` for all.
        facility: Option<Facility>,
    } -> reply::LogLevelsReply;

    /// Replaces the daemon by another binary.
    Change Light Upgrade {
        /// The program; `None` for the daemon's own file on disk.
        binary: Option<AbsolutePath>,
    } -> UpgradeReply {
        // A program anywhere, run by root for a member of group `mcr`, would make that member root.
        fn owner_parameter(&self) -> Option<&'static str> {
            self.binary.is_some().then_some("binary")
        }
    };
}

/// `GetVersion`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReply {
    /// The daemon's program version.
    pub mcrd: String,
    /// The daemon's [`crate::PROTOCOL_VERSION`].
    pub protocol: String,
}

/// `Upgrade`: who is the daemon now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeReply {
    /// Its program version.
    pub version: String,
    /// Its process.
    pub pid: u32,
}

/// `GetConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigReply {
    /// The running config as JSON5, which `LoadConfig` accepts.
    pub config: String,
}

/// `CheckConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReply {
    /// How many rules the text holds; 0 if it has errors.
    pub rules: u64,
    /// Everything that is wrong with the text; empty if it can be loaded.
    pub errors: Vec<ConfigError>,
}

/// `SaveConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveReply {
    /// The file that was written.
    pub path: String,
    /// Where the file before it is kept, if it had comments that the new one lacks.
    pub backup: Option<String>,
}

/// `DiffConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffEnvelope {
    /// What would change.
    pub diff: reply::DiffReply,
}

impl ReplyBody for VersionReply {}
impl ReplyBody for UpgradeReply {}
impl ReplyBody for ConfigReply {}
impl ReplyBody for CheckReply {}
impl ReplyBody for SaveReply {}

impl ReplyBody for DiffEnvelope {
    fn items(&self) -> usize {
        self.diff.items()
    }
}
