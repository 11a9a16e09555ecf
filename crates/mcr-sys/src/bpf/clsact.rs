//! Filters at the ingress of an interface, by rtnetlink: what tc(8) does with `qdisc add dev IF clsact` and
//! `filter add dev IF ingress bpf direct-action fd …`.
//!
//! ```text
//!  nlmsghdr ┬ tcmsg 20: family 1 padding 3 │ ifindex 4 │ handle 4 │ parent 4 │ info 4 ┬ TCA_KIND ┬ TCA_OPTIONS: TCA_BPF_* ┐
//! ```

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NetlinkSerializable};

use crate::Result;
use crate::link::IfIndex;
use crate::netlink::{Socket, attributes};

/// linux/pkt_sched.h
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// linux/rtnetlink.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// linux/pkt_cls.h
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// The program's answer is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const NLA_F_NESTED: u16 = 1 << 15;
/// Behind all filters that do not ask for the last place, too.
const PRIORITY: u16 = 0xfff0;
const ETH_P_ALL: u16 = 3;
const TCMSG_BYTES: usize = 20;
const INFO_AT: usize = 16;
/// By which a later process recognizes the filter.
const NAME: &[u8] = b"mcr_early_drop\0";

/// A filter; removed when dropped.
#[derive(Debug)]
pub(super) struct Filter {
    ifindex: IfIndex,
    /// The qdisc was added with it.
    with_qdisc: bool,
}

impl Filter {
    /// Adds a program as the last filter of an interface's ingress, and the qdisc for it if there is none.
    pub(super) fn add(program: BorrowedFd<'_>, ifindex: IfIndex) -> Result<Self> {
        let mut socket = Socket::open(0)?;
        let qdisc = Request::new(libc::RTM_NEWQDISC, ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0)
            .with(TCA_KIND, b"clsact\0");
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let with_qdisc = match socket.exchange("add the qdisc clsact", flags, qdisc, |_| {}) {
            Ok(_) => true,
            Err(error) if error.errno() == Some(libc::EEXIST) => false,
            Err(error) => return Err(error),
        };
        let added = Self { ifindex, with_qdisc };
        let options = [
            attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes()),
            attribute(TCA_BPF_NAME, NAME),
            attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
        ];
        let filter = Request::filter(libc::RTM_NEWTFILTER, ifindex)
            .with(TCA_KIND, b"bpf\0")
            .with(TCA_OPTIONS | NLA_F_NESTED, &options.concat());
        socket.exchange("add a filter to ingress", flags, filter, |_| {})?;
        Ok(added)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // The interface may be gone, and the filter with it.
        let _ = remove(self.ifindex);
        let is_unused = || {
            [INGRESS, EGRESS]
                .into_iter()
                .all(|parent| filters_of(self.ifindex, parent).is_ok_and(|all| all.is_empty()))
        };
        if self.with_qdisc && is_unused() {
            let qdisc = Request::new(libc::RTM_DELQDISC, self.ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
            let _ = Socket::open(0)
                .and_then(|mut socket| socket.exchange("remove the qdisc clsact", NLM_F_ACK, qdisc, |_| {}));
        }
    }
}

fn remove(ifindex: IfIndex) -> Result<()> {
    let filter = Request::filter(libc::RTM_DELTFILTER, ifindex);
    Socket::open(0)?.exchange("remove a filter from ingress", NLM_F_ACK, filter, |_| {}).map(drop)
}

/// Removes the filter of a killed process. Returns whether there was one.
pub(super) fn remove_leftover(ifindex: IfIndex) -> Result<bool> {
    let found = filters(ifindex).is_ok_and(|filters| filters.iter().any(Found::is_ours));
    if found {
        remove(ifindex)?;
    }
    Ok(found)
}

/// A filter of an interface's ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    named: bool,
    priority: u16,
}

impl Found {
    pub(super) fn is_ours(&self) -> bool {
        self.named && self.priority == PRIORITY
    }
}

/// The filters at an interface's ingress, in the order in which they run.
pub(super) fn filters(ifindex: IfIndex) -> Result<Vec<Found>> {
    filters_of(ifindex, INGRESS)
}

fn filters_of(ifindex: IfIndex, parent: u32) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let request = Request::new(libc::RTM_GETTFILTER, ifindex, 0, parent, 0);
    Socket::open(0)?.exchange("list filters of ingress", NLM_F_DUMP, request, |body| {
        found.extend(parse(body));
    })?;
    Ok(found)
}

/// Reads a `struct tcmsg` with its attributes. `None` for an entry that describes a priority, not a filter.
fn parse(body: &[u8]) -> Option<Found> {
    let info = u32::from_ne_bytes(*body.get(INFO_AT..)?.first_chunk()?);
    let all = || attributes(body.get(TCMSG_BYTES..).unwrap_or_default());
    let options = all().find(|one| one.kind() & !NLA_F_NESTED == TCA_OPTIONS)?;
    let named = attributes(options.value()).any(|one| one.kind() == TCA_BPF_NAME && one.value() == NAME);
    Some(Found { named, priority: u16::try_from(info >> 16).unwrap_or_default() })
}

/// One attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A request of traffic control.
struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    fn new(kind: u16, ifindex: IfIndex, handle: u32, parent: u32, info: u32) -> Self {
        let mut body = vec![0; 4];
        for word in [ifindex.to_raw(), handle, parent, info] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        Self { kind, body }
    }

    fn filter(kind: u16, ifindex: IfIndex) -> Self {
        let info = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
        Self::new(kind, ifindex, 0, INGRESS, info)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend(attribute(kind, value));
        self
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.iter_mut().zip(&self.body).for_each(|(to, byte)| *to = *byte);
    }
}
