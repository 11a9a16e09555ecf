//! The legs of a redundant stream (SMPTE ST 2022-7), and what a sender does to each: `GROUP:PORT:INTERFACE`, then
//! `/loss=PERCENT`, `/delay=MS` and `/reorder=PERCENT`. The same order as the outputs of `mcrctl add`.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// The most legs beside the first: merges have up to four inputs.
pub(crate) const MAX_OTHER_LEGS: usize = 3;
/// Longest delay, so that a typing error does not fill the memory.
const MAX_DELAY: Duration = Duration::from_secs(60);

const SHAPE: &str = "GROUP:PORT:INTERFACE is expected, an IPv6 group in brackets";

/// One leg.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leg {
    pub(crate) group: IpAddr,
    pub(crate) port: u16,
    pub(crate) interface: String,
    pub(crate) impairment: Impairment,
}

/// What a path does to datagrams. Each is a share of the datagrams, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Impairment {
    /// Datagrams that are not sent.
    pub(crate) loss: f64,
    /// The time by which all others are late.
    pub(crate) delay: Duration,
    /// Datagrams that leave behind the next one.
    pub(crate) reorder: f64,
}

impl Impairment {
    /// Whether it changes anything.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("loss", value)) => self.loss = percent(value)?,
            Some(("reorder", value)) => self.reorder = percent(value)?,
            Some(("delay", value)) => self.delay = milliseconds(value)?,
            _ => return Err(format!("{option:?} is not loss=PERCENT, delay=MS or reorder=PERCENT")),
        }
        Ok(())
    }
}

/// A percentage as a share.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| format!("{text:?} is not a percentage"))?;
    if (0.0..=100.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err(format!("{text} is not from 0 to 100 percent"))
    }
}

/// A time in milliseconds, with or without a fraction.
pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    let ms: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of milliseconds"))?;
    match Duration::try_from_secs_f64(ms / 1000.0) {
        Ok(delay) if delay <= MAX_DELAY => Ok(delay),
        Ok(_) => Err(format!("{text} is more than {} milliseconds", MAX_DELAY.as_millis())),
        Err(error) => Err(error.to_string()),
    }
}

impl FromStr for Leg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/');
        let destination = parts.next().unwrap_or_default();
        let (group, rest) = match destination.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once("]:").ok_or(SHAPE)?,
            None => destination.split_once(':').ok_or(SHAPE)?,
        };
        let (port, interface) = rest.split_once(':').ok_or(SHAPE)?;
        let group: IpAddr = group.parse().map_err(|_| format!("{group:?} is not an IP address; {SHAPE}"))?;
        if destination.starts_with('[') != group.is_ipv6() {
            return Err(SHAPE.to_owned());
        }
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("{rest:?} does not begin with a port from 1 to 65535"))?;
        if interface.is_empty() {
            return Err(SHAPE.to_owned());
        }
        let mut impairment = Impairment::default();
        parts.try_for_each(|option| impairment.set(option))?;
        Ok(Self { group, port, interface: interface.to_owned(), impairment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_is_read_with_its_impairments() {
        let leg: Leg = "239.101.1.1:5000:eth2/loss=5/delay=50/reorder=0.5".parse().unwrap();
        assert_eq!(
            (leg.group, leg.port, leg.interface.as_str()),
            ("239.101.1.1".parse().unwrap(), 5000, "eth2")
        );
        let expected = Impairment { loss: 0.05, delay: Duration::from_millis(50), reorder: 0.005 };
        assert_eq!(leg.impairment, expected);
        let plain: Leg = "[ff15::1]:5000:eth2".parse().unwrap();
        assert!(plain.group.is_ipv6() && plain.impairment.is_none());
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, expected) in [
            ("", "GROUP:PORT:INTERFACE"),
            ("239.1.1.1:5000", "GROUP:PORT:INTERFACE"),
            ("239.1.1.1:5000:", "GROUP:PORT:INTERFACE"),
            ("239.1.1:5000:eth0", "not an IP address"),
            ("ff15::1:5000:eth0", "not an IP address"),
            ("239.1.1.1:0:eth0", "port from 1"),
            ("239.1.1.1:5000:eth0/loss=101", "from 0 to 100"),
            ("239.1.1.1:5000:eth0/loss=x", "not a percentage"),
            ("239.1.1.1:5000:eth0/delay=-1", "negative"),
            ("239.1.1.1:5000:eth0/delay=70000", "more than 60000"),
            ("239.1.1.1:5000:eth0/speed=1", "not loss=PERCENT"),
        ] {
            let error = text.parse::<Leg>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
