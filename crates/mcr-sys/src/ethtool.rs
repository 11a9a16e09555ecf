//! Device settings (the ioctl SIOCETHTOOL, linux/ethtool.h): which received frames a device merges.
//!
//! ```text
//!  rx-gro                  frames of a flow are merged at all, for sockets that ask for it and for TCP
//!  rx-udp-gro-forwarding   also datagrams that no socket of this host asked for: super-frames
//!  rx-gro-list             the same as a list of frames; where it is on, it comes first
//! ```

use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use rustix::net::{AddressFamily, SocketType, socket};

use crate::{Result, SysError, failed};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const STRING_BYTES: usize = 32;
/// The features that a kernel may have: 64 on Linux 6.
const MAX_FEATURES: usize = 256;
const BLOCKS: usize = MAX_FEATURES / 32;

const NAMES: [&[u8]; 3] = [b"rx-gro", b"rx-udp-gro-forwarding", b"rx-gro-list"];

/// Which received frames a device merges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiveOffload {
    /// `rx-gro`: frames of a flow, for TCP and for sockets that ask for it.
    pub gro: bool,
    /// `rx-udp-gro-forwarding`: also datagrams that no socket asked for. Of no effect without `rx-gro`.
    pub udp_forwarding: bool,
    /// `rx-gro-list`: as a list, in preference to the above.
    pub lists: bool,
}

/// `struct ifreq` with a pointer as its content; its size is that of C.
#[repr(C)]
struct Request<T> {
    name: [u8; libc::IFNAMSIZ],
    value: *mut T,
    padding: [u8; 16],
}

/// `struct ethtool_sset_info` with room for one count.
#[repr(C)]
struct SetInfo {
    command: u32,
    reserved: u32,
    mask: u64,
    count: u32,
}

/// `struct ethtool_gstrings`.
#[repr(C)]
struct Strings {
    command: u32,
    set: u32,
    count: u32,
    names: [[u8; STRING_BYTES]; MAX_FEATURES],
}

/// `struct ethtool_gfeatures`.
#[repr(C)]
struct GetFeatures {
    command: u32,
    blocks: u32,
    of: [FeatureBlock; BLOCKS],
}

/// `struct ethtool_get_features_block`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct FeatureBlock {
    available: u32,
    requested: u32,
    active: u32,
    never_changed: u32,
}

/// `struct ethtool_sfeatures`.
#[repr(C)]
struct SetFeatures {
    command: u32,
    blocks: u32,
    of: [FeatureChange; BLOCKS],
}

/// `struct ethtool_set_features_block`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct FeatureChange {
    valid: u32,
    requested: u32,
}

/// Where the kernel has the features of [`NAMES`]: a number of each, the same for all devices.
#[derive(Clone, Copy, Debug)]
struct Places {
    at: [Option<usize>; NAMES.len()],
    features: usize,
}

/// Returns which received frames a device merges.
///
/// # Errors
/// There is no such interface, or it does not support the request.
pub fn receive_offload(interface: &str) -> Result<ReceiveOffload> {
    const STEP: &str = "ethtool: read features";
    let Places { at, features } = places(interface)?;
    let blocks = u32::try_from(features.div_ceil(32)).unwrap_or_default();
    let mut value = GetFeatures { command: ETHTOOL_GFEATURES, blocks, of: Default::default() };
    call(STEP, interface, &mut value)?;
    let is_on = |place: Option<usize>| {
        let (block, bit) = place.map(|place| (place / 32, place % 32))?;
        Some(value.of.get(block)?.active >> bit & 1 == 1)
    };
    let [gro, udp_forwarding, lists] = at.map(|place| is_on(place).unwrap_or_default());
    Ok(ReceiveOffload { gro, udp_forwarding, lists })
}

/// Sets `rx-gro` and `rx-udp-gro-forwarding` of a device in one request. Returns what is in force then: the kernel may have
/// refused some of it.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` over the network namespace; no such interface; the kernel lacks the features (Linux 5.12).
pub fn set_receive_offload(interface: &str, wanted: ReceiveOffload) -> Result<ReceiveOffload> {
    const STEP: &str = "ethtool: set features";
    let Places { at: [gro, udp_forwarding, _], features } = places(interface)?;
    let blocks = u32::try_from(features.div_ceil(32)).unwrap_or_default();
    let mut value = SetFeatures { command: ETHTOOL_SFEATURES, blocks, of: Default::default() };
    for (place, on) in [(gro, wanted.gro), (udp_forwarding, wanted.udp_forwarding)] {
        let place = place.ok_or_else(|| SysError::invalid(STEP, "the kernel has no UDP GRO forwarding"))?;
        if let Some(change) = value.of.get_mut(place / 32) {
            change.valid |= 1 << (place % 32);
            change.requested |= u32::from(on) << (place % 32);
        }
    }
    call(STEP, interface, &mut value)?;
    receive_offload(interface)
}

fn places(interface: &str) -> Result<Places> {
    static PLACES: OnceLock<Places> = OnceLock::new();
    if let Some(known) = PLACES.get() {
        return Ok(*known);
    }
    const STEP: &str = "ethtool: read the names of features";
    let mut info = SetInfo { command: ETHTOOL_GSSET_INFO, reserved: 0, mask: 1 << ETH_SS_FEATURES, count: 0 };
    call(STEP, interface, &mut info)?;
    let features = info.count as usize;
    if info.mask == 0 || features > MAX_FEATURES {
        return Err(SysError::invalid(STEP, "an unknown number of features"));
    }
    let names = [[0; STRING_BYTES]; MAX_FEATURES];
    let mut strings =
        Box::new(Strings { command: ETHTOOL_GSTRINGS, set: ETH_SS_FEATURES, count: info.count, names });
    call(STEP, interface, &mut *strings)?;
    let place = |wanted: &[u8]| {
        let names = strings.names.iter().take(features);
        names.map(|name| name.split(|byte| *byte == 0).next()).position(|name| name == Some(wanted))
    };
    let found = Places { at: NAMES.map(place), features };
    Ok(*PLACES.get_or_init(|| found))
}

/// Passes a request with a C structure of the command in its first field, which the kernel reads and writes.
fn call<T>(step: &'static str, interface: &str, value: &mut T) -> Result<()> {
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(failed(step))?;
    let mut request = Request { name: [0; libc::IFNAMSIZ], value, padding: [0; 16] };
    let name = interface.as_bytes();
    let room = request.name.get_mut(..name.len()).filter(|_| name.len() < libc::IFNAMSIZ);
    room.ok_or_else(|| SysError::invalid(step, "the name is too long"))?.copy_from_slice(name);
    // SAFETY: the request and the structure it points to live across the call; the structure has the layout of its command, and
    // the counts in it do not exceed its arrays.
    let answer = unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if answer < 0 { Err(SysError::last(step)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_answers_and_a_missing_one_is_an_error() {
        // Loopback merges nothing, but has the switches.
        assert!(!receive_offload("lo").unwrap().lists);
        assert_eq!(receive_offload("no-such-if").unwrap_err().errno(), Some(libc::ENODEV));
        assert!(receive_offload("a-name-that-is-much-too-long").is_err());
    }

    #[test]
    fn what_is_set_is_read_and_a_process_without_the_right_is_refused() {
        let on = ReceiveOffload { gro: true, udp_forwarding: true, lists: false };
        let cable = crate::fixture::cable();
        let answers = cable.here.run(|| {
            let before = receive_offload("cable").unwrap();
            let set = set_receive_offload("cable", on).unwrap();
            let none = rustix::thread::CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).unwrap();
            let refused = set_receive_offload("cable", before).unwrap_err().errno();
            (before, set, refused, receive_offload("cable").unwrap())
        });
        let off = ReceiveOffload::default();
        assert_eq!(answers.unwrap(), (off, on, Some(libc::EPERM), on));
    }

    #[test]
    fn every_feature_is_found_by_its_name() {
        assert!(places("lo").unwrap().at.iter().all(Option::is_some));
    }
}
