//! Chains of nftables that see what arrives: those of iptables are among them, unless it is the legacy one.
//!
//! ```text
//!  nlmsghdr ┬ nfgenmsg 4: family 1 version 1 resource 2 ┬ NFTA_CHAIN_HOOK ┬ NFTA_CHAIN_TYPE ┐
//! ```

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_DUMP, NetlinkSerializable};

use crate::Result;
use crate::netlink::{Socket, attributes};
use crate::network::decode::text;

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETCHAIN` (linux/netfilter/).
const GET_CHAIN: u16 = 10 << 8 | 4;
const NFGENMSG_BYTES: usize = 4;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
/// Of the attribute's kind: it is nested, it is in network byte order.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// linux/netfilter.h
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_NETDEV: u8 = 5;
const NFPROTO_IPV6: u8 = 10;
const PRE_ROUTING: u32 = 0;
const NETDEV_INGRESS: u32 = 0;
const INET_INGRESS: u32 = 5;

#[derive(Debug, Default)]
pub(super) struct Chains {
    /// By family, IPv4 and IPv6: one of type `nat` hooks PREROUTING.
    pub(super) translates: [bool; 2],
    /// Interfaces with a chain at ingress.
    pub(super) ingress: BTreeSet<String>,
}

struct GetChain;

impl NetlinkSerializable for GetChain {
    fn message_type(&self) -> u16 {
        GET_CHAIN
    }

    fn buffer_len(&self) -> usize {
        NFGENMSG_BYTES
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // Of all families, version 0.
        buffer.fill(0);
    }
}

/// Lists the chains. A kernel without nftables has none.
pub(super) fn look() -> Result<Chains> {
    let mut chains = Chains::default();
    let listed = Socket::open_netfilter().and_then(|mut socket| {
        socket.exchange("list chains of nftables", NLM_F_DUMP, GetChain, |body| chains.add(body))
    });
    const WITHOUT: [i32; 4] = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT, libc::EPROTONOSUPPORT];
    match listed {
        Err(error) if error.errno().is_some_and(|errno| WITHOUT.contains(&errno)) => {}
        other => _ = other?,
    }
    Ok(chains)
}

impl Chains {
    fn add(&mut self, body: &[u8]) {
        let Some(family) = body.first().copied() else { return };
        let all = || attributes(body.get(NFGENMSG_BYTES..).unwrap_or_default());
        let find = |kind: u16| all().find(|one| one.kind() & NLA_TYPE_MASK == kind);
        let Some(hook) = find(NFTA_CHAIN_HOOK) else { return };
        let of_hook = || attributes(hook.value());
        let number = of_hook().find(|one| one.kind() & NLA_TYPE_MASK == NFTA_HOOK_HOOKNUM);
        let number = number.and_then(|one| one.value().first_chunk().map(|word| u32::from_be_bytes(*word)));
        match (family, number) {
            (NFPROTO_NETDEV, Some(NETDEV_INGRESS)) | (NFPROTO_INET, Some(INET_INGRESS)) => {
                for one in of_hook() {
                    match one.kind() & NLA_TYPE_MASK {
                        NFTA_HOOK_DEV => _ = self.ingress.insert(text(one.value())),
                        NFTA_HOOK_DEVS => {
                            self.ingress.extend(attributes(one.value()).map(|name| text(name.value())))
                        }
                        _ => {}
                    }
                }
            }
            (NFPROTO_INET | NFPROTO_IPV4 | NFPROTO_IPV6, Some(PRE_ROUTING)) => {
                let kind = find(NFTA_CHAIN_TYPE).map(|kind| text(kind.value()));
                if kind.as_deref() == Some("nat") {
                    self.translates[0] |= family != NFPROTO_IPV6;
                    self.translates[1] |= family != NFPROTO_IPV4;
                }
            }
            _ => {}
        }
    }
}
