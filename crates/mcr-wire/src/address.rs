//! An IP address as a number, which is cheaper to move, compare and hash than [`IpAddr`].

use std::net::IpAddr;

/// The bits of an address and its family: an IPv4 address never equals an IPv6 one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressBits {
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// The address as a number.
    pub bits: u128,
}

impl AddressBits {
    /// An IPv4 address, from its bytes in the header.
    #[inline]
    #[must_use]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self { ipv6: false, bits: u32::from_be_bytes(bytes) as u128 }
    }

    /// An IPv6 address, from its bytes in the header.
    #[inline]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { ipv6: true, bits: u128::from_be_bytes(bytes) }
    }

    /// The upper and the lower half.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the halves are taken apart on purpose")]
    pub const fn halves(self) -> [u64; 2] {
        [(self.bits >> 64) as u64, self.bits as u64]
    }

    /// From the upper and the lower half.
    #[must_use]
    pub fn from_halves(ipv6: bool, [upper, lower]: [u64; 2]) -> Self {
        Self { ipv6, bits: u128::from(upper) << 64 | u128::from(lower) }
    }
}

impl From<IpAddr> for AddressBits {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<AddressBits> for IpAddr {
    #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address has 32 bits")]
    fn from(AddressBits { ipv6, bits }: AddressBits) -> Self {
        if ipv6 { Self::from(bits.to_be_bytes()) } else { Self::from((bits as u32).to_be_bytes()) }
    }
}
