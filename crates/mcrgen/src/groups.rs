//! The consecutive addresses of `--group G --groups N`: stream *i* goes to G + *i*.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum number of streams of one run: the receiver has a socket for each.
pub(crate) const MAX_GROUPS: u16 = 4096;

/// Returns `count` addresses starting at `first`.
pub(crate) fn consecutive(first: IpAddr, count: u16) -> Result<Vec<IpAddr>, String> {
    let groups: Option<Vec<IpAddr>> = (0..count)
        .map(|index| match first {
            IpAddr::V4(group) => {
                group.to_bits().checked_add(index.into()).map(|bits| Ipv4Addr::from_bits(bits).into())
            }
            IpAddr::V6(group) => {
                group.to_bits().checked_add(index.into()).map(|bits| Ipv6Addr::from_bits(bits).into())
            }
        })
        .collect();
    groups
        .filter(|groups| groups.iter().all(|group| group.is_multicast() == first.is_multicast()))
        .ok_or_else(|| format!("{count} addresses from {first} exceed the range of {}", kind(first)))
}

fn kind(address: IpAddr) -> &'static str {
    if address.is_multicast() { "multicast groups" } else { "unicast addresses" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_consecutive_and_in_range() {
        let groups = consecutive("239.1.1.254".parse().unwrap(), 4).unwrap();
        let expected = ["239.1.1.254", "239.1.1.255", "239.1.2.0", "239.1.2.1"];
        assert_eq!(groups, expected.map(|group| group.parse::<IpAddr>().unwrap()));
        let groups = consecutive("ff15::ffff".parse().unwrap(), 2).unwrap();
        assert_eq!(groups[1], "ff15::1:0".parse::<IpAddr>().unwrap());
        assert!(consecutive("239.255.255.255".parse().unwrap(), 2).unwrap_err().contains("multicast"));
        assert!(consecutive("223.255.255.255".parse().unwrap(), 2).unwrap_err().contains("unicast"));
        assert!(consecutive("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(), 2).is_err());
    }
}
