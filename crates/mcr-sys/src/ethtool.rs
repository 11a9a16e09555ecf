//! Device settings (the ioctl SIOCETHTOOL, linux/ethtool.h).

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType, socket};

use crate::{Result, SysError, failed};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GGRO: u32 = 0x2b;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq` with a pointer as its content; its size is that of C.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    padding: [u8; 16],
}

/// Returns whether generic receive offload is on: the device merges received frames of a flow.
///
/// # Errors
/// There is no such interface, or it does not support the request.
pub fn is_gro_enabled(interface: &str) -> Result<bool> {
    const STEP: &str = "ethtool: read receive offload";
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(failed(STEP))?;
    let mut value = Value { command: ETHTOOL_GGRO, data: 0 };
    let mut request = Request { name: [0; libc::IFNAMSIZ], value: &raw mut value, padding: [0; 16] };
    let name = interface.as_bytes();
    let room = request.name.get_mut(..name.len()).filter(|_| name.len() < libc::IFNAMSIZ);
    room.ok_or_else(|| SysError::invalid(STEP, "the name is too long"))?.copy_from_slice(name);
    // SAFETY: the request and the value it points to live across the call, and have the sizes that this command uses.
    let answer = unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if answer < 0 { Err(SysError::last(STEP)) } else { Ok(value.data != 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_answers_and_a_missing_one_is_an_error() {
        assert!(is_gro_enabled("lo").is_ok());
        assert_eq!(is_gro_enabled("no-such-if").unwrap_err().errno(), Some(libc::ENODEV));
        assert!(is_gro_enabled("a-name-that-is-much-too-long").is_err());
    }
}
