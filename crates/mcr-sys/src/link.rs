//! The kernel's number for an interface.
//!
//! Everything below the configuration addresses interfaces by index: a name can move to another interface, an index
//! names one interface for as long as that exists.

use std::fmt;

use crate::error::{Result, failed};

/// Index of an interface in its network namespace (`if_nametoindex(3)`). Never reused for a re-created interface of
/// the same name, except at the explicit request of its creator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(u32);

impl IfIndex {
    /// The interface with this index. Zero names no interface; the kernel refuses it where one is needed.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The kernel's number.
    pub const fn to_raw(self) -> u32 {
        self.0
    }

    /// The interface that has this name now, in the calling thread's network namespace.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn by_name(name: &str) -> Result<Self> {
        const STEP: &str = "look up interface";
        let any = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)
            .map_err(failed(STEP))?;
        rustix::net::netdevice::name_to_index(&any, name).map(Self).map_err(failed(STEP))
    }

    /// As system calls take it. An index fits: the kernel's own type is a positive `int`.
    pub(crate) fn to_int(self) -> libc::c_int {
        libc::c_int::try_from(self.0).unwrap_or(libc::c_int::MAX)
    }
}

impl From<u32> for IfIndex {
    fn from(raw: u32) -> Self {
        Self(raw)
    }
}

impl fmt::Display for IfIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_is_no_device() {
        let error = IfIndex::by_name("no-such-if").expect_err("there is no such interface");
        assert_eq!(error.errno(), Some(libc::ENODEV));
    }

    #[test]
    fn loopback_has_an_index() {
        let lo = IfIndex::by_name("lo").expect("loopback exists in every namespace");
        assert_eq!(IfIndex::new(lo.to_raw()), lo);
        assert_eq!(lo.to_string(), lo.to_raw().to_string());
    }
}
