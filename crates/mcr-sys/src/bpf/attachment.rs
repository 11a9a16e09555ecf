//! Where a program runs: at the ingress of an interface, behind all other programs there.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::call::{Argument, Command, address, bpf, descriptor};
use super::{Program, clsact};
use crate::Result;
use crate::link::IfIndex;

/// `BPF_TCX_INGRESS` and `BPF_SK_LOOKUP` of `enum bpf_attach_type`.
const TCX_INGRESS: u32 = 46;
const SK_LOOKUP: u32 = 36;
/// `BPF_F_AFTER`: without a program relative to which, behind all.
const AFTER: u32 = 1 << 4;
/// The kernel admits no more programs at one place (`BPF_MPROG_MAX`).
const MAX_PROGRAMS: usize = 64;

/// `BPF_LINK_CREATE`, with its part for tcx.
#[repr(C)]
struct CreateLink {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
}

// SAFETY: the layout of `BPF_LINK_CREATE` for tcx, without pointers.
unsafe impl Argument for CreateLink {}
// SAFETY: the layout of `BPF_PROG_QUERY`; `programs` passes an array of `count` numbers.
unsafe impl Argument for Query {}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// tcx, from Linux 6.6: it is detached when the last descriptor is closed, even if the process is killed.
    Tcx,
    /// A filter of the qdisc `clsact`: it stays until it is removed.
    Clsact,
}

impl Method {
    /// `tcx` or `clsact`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// An attached program; detached when dropped.
#[derive(Debug)]
pub struct Attachment {
    ifindex: IfIndex,
    place: Place,
}

/// What ends the attachment when it is dropped.
#[derive(Debug)]
enum Place {
    Link(#[expect(dead_code, reason = "it is closed when dropped")] OwnedFd),
    Filter(#[expect(dead_code, reason = "it is removed when dropped")] clsact::Filter),
}

impl Attachment {
    /// Attaches a program to the ingress of an interface, behind all that are there: by tcx, or by clsact where the kernel has
    /// no tcx.
    ///
    /// # Errors
    /// The interface does not exist; without CAP_NET_ADMIN.
    pub fn new(program: &Program, ifindex: IfIndex) -> Result<Self> {
        match Self::by(Method::Tcx, program, ifindex) {
            // An unknown attach type.
            Err(error) if error.errno() == Some(libc::EINVAL) => Self::by(Method::Clsact, program, ifindex),
            other => other,
        }
    }

    /// Attaches it in this way.
    ///
    /// # Errors
    /// As [`Self::new`]; `EINVAL` if the kernel has no tcx.
    pub fn by(method: Method, program: &Program, ifindex: IfIndex) -> Result<Self> {
        let place = match method {
            Method::Clsact => Place::Filter(clsact::Filter::add(program.as_fd(), ifindex)?),
            Method::Tcx => {
                let mut link = CreateLink {
                    program: program.as_fd().as_raw_fd().cast_unsigned(),
                    ifindex: ifindex.to_raw(),
                    attach_type: TCX_INGRESS,
                    flags: AFTER,
                    relative: 0,
                    padding: 0,
                    expected_revision: 0,
                };
                Place::Link(descriptor("attach a program to ingress", Command::LinkCreate, &mut link)?)
            }
        };
        Ok(Self { ifindex, place })
    }

    /// How it is attached.
    #[must_use]
    pub fn method(&self) -> Method {
        match self.place {
            Place::Link(_) => Method::Tcx,
            Place::Filter(_) => Method::Clsact,
        }
    }

    /// Whether the program still runs there, as the last one of its kind.
    ///
    /// # Errors
    /// The interface does not exist any more.
    pub fn is_last(&self, program: &Program) -> Result<bool> {
        match &self.place {
            Place::Link(_) => Ok(programs(self.ifindex.to_raw(), TCX_INGRESS)?.last() == Some(&program.id())),
            Place::Filter(_) => {
                let filters = ingress_filters(self.ifindex)?;
                Ok(filters.last().is_some_and(|last| last.is_ours()))
            }
        }
    }
}

impl Attachment {
    /// Whether the program still runs there, perhaps with others behind it.
    ///
    /// # Errors
    /// The interface does not exist any more.
    pub fn is_there(&self, program: &Program) -> Result<bool> {
        match &self.place {
            Place::Link(_) => Ok(programs(self.ifindex.to_raw(), TCX_INGRESS)?.contains(&program.id())),
            Place::Filter(_) => Ok(ingress_filters(self.ifindex)?.iter().any(clsact::Found::is_ours)),
        }
    }
}

/// Whether other programs or filters of tc (not tcx) are attached to the ingress of an interface: they would run behind tcx.
///
/// # Errors
/// The interface does not exist.
pub fn has_other_filters(ifindex: IfIndex) -> Result<bool> {
    Ok(ingress_filters(ifindex)?.iter().any(|filter| !filter.is_ours()))
}

/// Removes what a killed process left at the ingress of an interface. Returns whether there was something.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn remove_leftover(ifindex: IfIndex) -> Result<bool> {
    clsact::remove_leftover(ifindex)
}

/// The same on every interface of the network namespace. Returns on how many there was something.
///
/// # Errors
/// The interfaces can't be listed; without CAP_NET_ADMIN.
pub fn remove_leftovers() -> Result<usize> {
    let mut removed = 0;
    for described in crate::host_network::descriptions()? {
        removed += usize::from(remove_leftover(described.ifindex)?);
    }
    Ok(removed)
}

fn ingress_filters(ifindex: IfIndex) -> Result<Vec<clsact::Found>> {
    match clsact::filters(ifindex) {
        // Without a qdisc that has an ingress.
        Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// Whether programs choose the sockets of this network namespace (`BPF_SK_LOOKUP`).
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn has_socket_lookup() -> Result<bool> {
    const STEP: &str = "open the network namespace";
    let namespace = std::fs::File::open("/proc/self/ns/net").map_err(crate::failed(STEP))?;
    Ok(!programs(namespace.as_raw_fd().cast_unsigned(), SK_LOOKUP)?.is_empty())
}

/// The numbers of the programs at a place, in the order in which they run.
fn programs(target: u32, attach_type: u32) -> Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut query = Query {
        target,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        program_ids: address(ids.as_mut_ptr()),
        count: 64,
        padding: 0,
        program_attach_flags: 0,
    };
    match bpf("list attached programs", Command::ProgramQuery, &mut query) {
        Ok(_) => Ok(ids.iter().take(query.count as usize).copied().collect()),
        // Never was one.
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
