//! Device settings that make an interface merge what it receives.

use std::sync::OnceLock;

use mcr_rules::log::NETWORK;
use mcr_sys::SysError;
use mcr_sys::errno::{EACCES, EPERM};
use mcr_sys::ethtool::{ReceiveOffload, receive_offload, set_receive_offload};
use mcr_sys::link::IfIndex;

use crate::core::aggregation::Refusal;
use crate::core::machine::Outcome;
use crate::host_facts;

pub(super) fn read(ifindex: IfIndex, interface: &str) -> Outcome<'static> {
    Outcome::OffloadRead(ifindex, receive_offload(interface).map_err(|error| error.to_string()))
}

/// Sets them, unless it would switch on what the kernel can't deliver to workers.
pub(super) fn set(ifindex: IfIndex, interface: &str, wanted: ReceiveOffload) -> Outcome<'static> {
    let ReceiveOffload { gro, udp_forwarding, .. } = wanted;
    if udp_forwarding && !super_frames_arrive() {
        return Outcome::OffloadSet(ifindex, Err(Refusal::KernelTooOld));
    }
    let set = set_receive_offload(interface, wanted);
    match &set {
        Ok(_) => tracing::debug!(target: NETWORK, interface, gro, udp_forwarding, "receive offload set"),
        Err(error) => tracing::debug!(target: NETWORK, interface, gro, udp_forwarding, "{error}"),
    }
    Outcome::OffloadSet(ifindex, set.map_err(|error| refusal(&error)))
}

/// Restores what was there before, if what was set is still in force.
pub(super) fn restore(interface: &str, set: ReceiveOffload, before: ReceiveOffload) {
    let pair = |offload: ReceiveOffload| (offload.gro, offload.udp_forwarding);
    // An interface that is gone can't be read.
    if !receive_offload(interface).is_ok_and(|now| pair(now) == pair(set)) {
        return;
    }
    if let Err(error) = set_receive_offload(interface, before) {
        tracing::warn!(target: NETWORK, interface, "receive offload is not restored: {error}");
    }
}

fn refusal(error: &SysError) -> Refusal {
    match error.errno() {
        Some(EPERM | EACCES) => Refusal::NotPermitted,
        _ => Refusal::Device(error.to_string()),
    }
}

/// Whether a worker gets super-frames: tried once; where that is not possible, by the kernel's version.
fn super_frames_arrive() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| host_facts::super_frames().unwrap_or_else(host_facts::is_kernel_with_super_frames))
}
