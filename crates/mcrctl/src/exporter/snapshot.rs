//! What the daemon reports at one moment.

use mcr_control::client::{Client, ClientError};
use mcr_control::method::VersionReply;
use mcr_control::method::parameter::RuleFilter;
use mcr_control::method::{GetStats, ListFlows, ListInterfaces, ListMemberships, ListRules, ListWorkers};
use mcr_control::reply::{
    FlowsReply, InterfacesReply, MembershipsReply, RulesReply, StatsReply, WorkersReply,
};

/// The replies that the metrics are made from.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) version: VersionReply,
    pub(super) rules: RulesReply,
    pub(super) stats: StatsReply,
    pub(super) flows: FlowsReply,
    pub(super) workers: WorkersReply,
    pub(super) memberships: MembershipsReply,
    pub(super) interfaces: InterfacesReply,
}

impl Snapshot {
    /// Asks the daemon.
    pub(super) fn take(client: &mut Client) -> Result<Self, ClientError> {
        Ok(Self {
            version: client.version()?,
            stats: client.call(&GetStats {})?,
            flows: client.call(&ListFlows { rule: RuleFilter::default() })?,
            rules: client.call(&ListRules {})?,
            workers: client.call(&ListWorkers {})?,
            memberships: client.call(&ListMemberships {})?,
            interfaces: client.call(&ListInterfaces {})?,
        })
    }
}
