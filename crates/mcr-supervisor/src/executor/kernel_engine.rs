//! The maps of the kernel engine: what capture sockets accept by its filter, which rules the kernel relays, and its counters.

mod tables;

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mcr_control::reply::EngineReason;
use mcr_link::reason::DropReason;
use mcr_link::rule_set::{OutputSlot, RuleSlot};
use mcr_link::telemetry::health::HealthSnapshot;
use mcr_link::telemetry::{OutputSnapshot, RuleSnapshot, TotalsSnapshot};
use mcr_rules::log::NETWORK;
use mcr_sys::bpf::relay::Tables;
use mcr_sys::packet::Capture;

use self::tables::Written;
use super::Executor;
use crate::core::actual::ActualWorker;
use crate::core::actual::kernel_engine::KernelRuleSet;
use crate::core::checkpoint::{KernelSlots, read_kernel_slots};
use crate::core::filter_set::FilterSet;
use crate::core::ledger::Counters;
use crate::core::machine::KernelReport;
use crate::core::machine::{Event, Machine, Outcome};
use crate::core::plan::WorkerId;
use crate::keeper::Found;

/// Number of examinations after which the maps are compared with what was written.
const EXAMINATIONS_PER_AUDIT: u32 = 10;

/// The maps, and what was written to them.
#[derive(Debug)]
pub(super) struct KernelMaps {
    tables: Tables,
    /// Holds the port, of both families, that outputs send from which have none of their own.
    port: UdpSocket,
    written: Written,
    /// Distinguishes these from others.
    number: u64,
    examined: u32,
}

impl KernelMaps {
    fn new(tables: Tables, port: UdpSocket) -> Result<Self, String> {
        let number = port.local_addr().map_err(|error| error.to_string())?.port();
        let written = Written::adopt(&tables, number)?;
        let now = mcr_sys::clock::monotonic();
        let number = u64::try_from(now.as_nanos()).unwrap_or_default();
        Ok(Self { tables, port, written, number, examined: 0 })
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let maps = self.tables.descriptors();
        maps.into_iter().chain([self.port.as_fd()]).collect()
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Makes the program the filter of a capture socket.
    pub(super) fn attach_filter(&self, capture: &Capture) -> Result<(), String> {
        capture.attach_program(self.tables.filter()).map_err(|error| error.to_string())
    }
}

/// A port that no program of the host has: a socket that receives nothing.
fn hold_port() -> std::io::Result<UdpSocket> {
    // Of both families, where there are both.
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    mcr_sys::absorber::receive_nothing(socket.as_fd()).map_err(std::io::Error::other)?;
    Ok(socket)
}

impl Executor {
    /// The attacher has loaded the programs, or can't.
    pub(super) fn kernel_programs(
        &mut self,
        programs: Result<Vec<OwnedFd>, String>,
        machine: &mut Machine,
        now: Duration,
    ) {
        if self.kernel.is_some() {
            // Asked for twice.
            return;
        }
        let maps = programs.and_then(|fds| {
            let tables = Tables::adopt(fds).map_err(|error| error.to_string())?;
            let port = hold_port().map_err(|error| format!("hold a port: {error}"))?;
            KernelMaps::new(tables, port)
        });
        let report = match maps {
            Ok(maps) => {
                self.kernel = Some(maps);
                KernelReport::Present
            }
            Err(reason) => {
                tracing::warn!(target: NETWORK, "no kernel engine, workers relay everything: {reason}");
                KernelReport::Unavailable(EngineReason::KernelTooOld)
            }
        };
        machine.handle(now, Event::Kernel(report));
    }

    /// Adopts the maps of an earlier supervisor.
    pub(super) fn adopt_kernel_engine(&mut self, found: Found) -> Result<KernelSlots, String> {
        let slots = read_kernel_slots(&found).map_err(|error| error.to_string())?;
        let mut fds = found.fds;
        let port = fds.pop().ok_or("there is no socket")?;
        let tables = Tables::adopt(fds).map_err(|error| error.to_string())?;
        self.kernel = Some(KernelMaps::new(tables, UdpSocket::from(port))?);
        Ok(slots)
    }

    /// Without the attacher nothing is executed: workers relay everything at once, and the counters are settled.
    pub(crate) fn end_kernel_engine_without_attacher(&mut self, machine: &mut Machine, now: Duration) {
        if self.has_attacher() {
            return;
        }
        let Some(mut kernel) = self.kernel.take() else { return };
        kernel.written.end(&kernel.tables);
        let totals = totals(&kernel.tables, machine.actual().kernel.counting());
        let gone = KernelReport::Gone(&kernel.tables, &totals);
        machine.handle(now, Event::Kernel(gone));
    }

    pub(super) fn set_capture_program<'a>(&mut self, id: &'a WorkerId, on: bool) -> Outcome<'a> {
        let Some(accepted) = self.slots.get(id).map(|slot| slot.accepted.clone()) else {
            return Outcome::CaptureProgramSet(id, Ok(false));
        };
        let set = if on && accepted.is_empty() {
            Err("it is not known what it accepts".to_owned())
        } else if on {
            self.accept_by_program(id, &accepted).and_then(|_| {
                let slot = self.slots.get_mut(id).zip(self.kernel.as_ref());
                slot.map_or(Ok(()), |(slot, kernel)| {
                    slot.filter.clear();
                    kernel.attach_filter(&slot.capture)
                })
            })
        } else {
            self.attach_classic_filter(id, &accepted);
            Ok(())
        };
        if set.is_err() || !on {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.accepted_by_program = None;
            }
            self.write_accepted();
        }
        if let Err(reason) = &set {
            tracing::warn!(target: NETWORK, worker = %id, "the kernel engine's filter can't be attached: {reason}");
        }
        Outcome::CaptureProgramSet(id, set.map(|()| on))
    }

    /// Makes the program accept this for a worker.
    pub(super) fn accept_by_program(
        &mut self,
        id: &WorkerId,
        wanted: &FilterSet,
    ) -> Result<FilterSet, String> {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.accepted_by_program = Some(Arc::clone(wanted));
            slot.accepted = Arc::clone(wanted);
        }
        self.write_accepted()
            .map(|()| Arc::clone(wanted))
            .ok_or_else(|| "its maps can't be changed".to_owned())
    }

    /// Writes what the program accepts for all sockets that have it. `None` if that failed.
    fn write_accepted(&mut self) -> Option<()> {
        let Some(kernel) = &mut self.kernel else { return Some(()) };
        let accepted = self.slots.iter().filter_map(|(id, slot)| {
            Some((id.interface.ifindex, Arc::clone(slot.accepted_by_program.as_ref()?)))
        });
        kernel.written.accept(&kernel.tables, accepted).inspect_err(warn).ok()
    }

    pub(super) fn set_kernel_rules(&mut self, set: &Arc<KernelRuleSet>) -> Outcome<'static> {
        let done = match &mut self.kernel {
            Some(kernel) => kernel.written.relay(&kernel.tables, set).inspect_err(warn),
            None => Ok(()),
        };
        if let (Err(_), Some(kernel)) = (&done, &mut self.kernel) {
            kernel.written.end(&kernel.tables);
        }
        Outcome::KernelRulesSet(Arc::clone(set), done.is_ok())
    }

    /// The counters of the kernel engine.
    pub(crate) fn kernel_counters(&self) -> Option<&Tables> {
        self.kernel.as_ref().map(|kernel| &kernel.tables)
    }

    /// The totals of the kernel engine, if there is one.
    pub(crate) fn kernel_totals(&self, machine: &Machine) -> Option<TotalsSnapshot> {
        self.kernel.as_ref().map(|kernel| totals(&kernel.tables, machine.actual().kernel.counting()))
    }

    /// Compares the maps with what was written, repairs them, and looks where decisions are not executed.
    pub(crate) fn examine_kernel_engine(&mut self, machine: &mut Machine, now: Duration) {
        let Some(kernel) = &mut self.kernel else { return };
        kernel.examined = kernel.examined.wrapping_add(1);
        let audited = kernel.examined.is_multiple_of(EXAMINATIONS_PER_AUDIT);
        let audited = audited.then(|| kernel.written.audit(&kernel.tables));
        match audited.unwrap_or(Ok(0)) {
            Ok(0) => {}
            Ok(repaired) => {
                tracing::warn!(target: NETWORK, "{repaired} entries of the kernel engine's maps were not as written, and were repaired");
            }
            Err(error) => warn(&error),
        }
        let failing = kernel.written.not_executed(&kernel.tables);
        if !failing.is_empty() {
            let names = failing.iter().filter_map(|ifindex| machine.network().link_by_index(*ifindex));
            let names: Vec<&str> = names.map(|link| link.name.as_str()).collect();
            tracing::warn!(
                target: NETWORK,
                "workers relay what comes in on {}: frames do not come to the program at ingress; another one there takes them",
                names.join(", ")
            );
            machine.handle(now, Event::Kernel(KernelReport::NotExecuted(failing)));
        }
    }
}

fn warn(error: &mcr_sys::SysError) {
    tracing::warn!(target: NETWORK, "workers relay everything: the kernel engine's maps can't be changed: {error}");
}

impl Counters for Tables {
    fn rule(&self, slot: RuleSlot) -> RuleSnapshot {
        let count = self.rule_count(slot.0);
        RuleSnapshot {
            packets: count.datagrams,
            bytes: count.bytes,
            due: count.due,
            merged: count.datagrams.saturating_sub(count.frames),
            first: count.first,
            last: count.last,
            health: HealthSnapshot::default(),
        }
    }

    fn output(&self, slot: OutputSlot) -> OutputSnapshot {
        let count = self.output_count(slot.0);
        let mut drops = [0; DropReason::COUNT];
        for (reason, n) in [
            (DropReason::QueueFull, count.queue_full),
            (DropReason::Unreachable, count.unreachable),
            (DropReason::NoDevice, count.no_device),
            (DropReason::Other, count.other),
        ] {
            drops[reason.index()] = n;
        }
        OutputSnapshot {
            packets: count.datagrams,
            bytes: count.bytes,
            last_errno: count.last_errno,
            drops,
            replies: 0,
        }
    }
}

/// The sum over all slots that were ever used.
fn totals(tables: &Tables, counting: &ActualWorker) -> TotalsSnapshot {
    let mut totals = TotalsSnapshot::default();
    let [rules, outputs] = counting.used_slots();
    // Outputs first: what is settled is read before what is due.
    for slot in 0..outputs {
        let output = Counters::output(tables, OutputSlot(slot));
        totals.sent += output.packets;
        totals.drops.iter_mut().zip(output.drops).for_each(|(sum, n)| *sum += n);
    }
    for slot in 0..rules {
        let count = tables.rule_count(slot);
        totals.frames += count.frames;
        totals.received += count.datagrams;
        totals.matched += count.datagrams;
        totals.due += count.due;
    }
    totals
}
