//! One output on the command line: `GROUP:PORT:INTERFACE[/OPTION=VALUE…]`. An interface name can't hold a slash
//! (`dev_valid_name` in the kernel), so nothing needs quoting.

use std::net::IpAddr;

use mcr_rules::{InterfaceName, Output, OutputOptions};

/// Why a text is not an output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutputError(String);

impl std::fmt::Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutputError {}

fn wrong(message: impl Into<String>) -> OutputError {
    OutputError(message.into())
}

/// Reads one output.
pub(crate) fn parse_output(text: &str) -> Result<Output, OutputError> {
    let mut parts = text.split('/');
    let (group, port, interface) = split_destination(parts.next().unwrap_or_default())?;
    let mut output = Output {
        interface: interface
            .parse::<InterfaceName>()
            .map_err(|error| wrong(format!("interface {interface:?}: {error}")))?,
        group,
        port,
        options: OutputOptions::default(),
    };
    for option in parts {
        apply(&mut output, option)?;
    }
    Ok(output)
}

fn split_destination(text: &str) -> Result<(IpAddr, u16, &str), OutputError> {
    const SHAPE: &str = "GROUP:PORT:INTERFACE is expected, an IPv6 group in brackets";
    let (group, rest) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (group, rest) = bracketed.split_once("]:").ok_or_else(|| wrong(SHAPE))?;
            let group = group.parse().map(IpAddr::V6);
            (group.map_err(|_| wrong(format!("{:?} is not an IPv6 address", bracketed_part(text))))?, rest)
        }
        None => {
            let (group, rest) = text.split_once(':').ok_or_else(|| wrong(SHAPE))?;
            if rest.matches(':').count() > 1 {
                return Err(wrong(SHAPE));
            }
            let address = group.parse().map(IpAddr::V4);
            (address.map_err(|_| wrong(format!("{group:?} is not an IPv4 address")))?, rest)
        }
    };
    let (port, interface) = rest.split_once(':').ok_or_else(|| wrong(SHAPE))?;
    let port = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| wrong(format!("{port:?} is not a port from 1 to 65535")))?;
    Ok((group, port, interface))
}

fn bracketed_part(text: &str) -> &str {
    text.split_once("]:").map_or(text, |(group, _)| group.trim_start_matches('['))
}

fn apply(output: &mut Output, option: &str) -> Result<(), OutputError> {
    let (name, value) = option
        .split_once('=')
        .ok_or_else(|| wrong(format!("{option:?} is not an option: ttl=, dscp= or source= is expected")))?;
    output.options.set(name, value).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use mcr_rules::{Dscp, Ttl};

    use super::*;

    #[test]
    fn outputs_are_read() {
        let plain = parse_output("239.2.2.2:5001:eth1").unwrap();
        assert_eq!((plain.group, plain.port), ("239.2.2.2".parse().unwrap(), 5001));
        assert_eq!(
            (plain.interface.as_str(), plain.options.ttl, plain.options.dscp),
            ("eth1", Ttl::default(), Dscp::default())
        );
        let six = parse_output("[ff15::1]:5000:eth1.5/ttl=64/dscp=34/source=fd01::2").unwrap();
        assert_eq!((six.group, six.interface.as_str()), ("ff15::1".parse().unwrap(), "eth1.5"));
        assert_eq!((six.options.ttl, six.options.dscp), (Ttl::Fixed(64), Dscp::Fixed(34)));
        assert_eq!(six.options.source, Some("fd01::2".parse().unwrap()));
        let words = parse_output("10.0.0.1:1:wg0/ttl=decrement/dscp=keep").unwrap();
        assert_eq!((words.options.ttl, words.options.dscp), (Ttl::Decrement, Dscp::Keep));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, told) in [
            ("", "GROUP:PORT:INTERFACE"),
            ("239.2.2.2", "GROUP:PORT:INTERFACE"),
            ("239.2.2.2:5001", "GROUP:PORT:INTERFACE"),
            ("ff15::1:5000:eth1", "brackets"),
            ("[ff15::1:5000:eth1", "brackets"),
            ("[239.2.2.2]:5000:eth1", "not an IPv6 address"),
            ("239.2.2:5000:eth1", "not an IPv4 address"),
            ("239.2.2.2:0:eth1", "not a port"),
            ("239.2.2.2:65536:eth1", "not a port"),
            ("239.2.2.2:5000:", "interface"),
            ("239.2.2.2:5000:averylonginterface", "interface"),
            ("239.2.2.2:5000:eth1/ttl=0", "1 to 255"),
            ("239.2.2.2:5000:eth1/ttl=256", "1 to 255"),
            ("239.2.2.2:5000:eth1/dscp=64", "0 to 63"),
            ("239.2.2.2:5000:eth1/source=here", "not an address"),
            ("239.2.2.2:5000:eth1/hops=4", "not an option"),
            ("239.2.2.2:5000:eth1/ttl", "not an option"),
            ("239.2.2.2:5000:eth1/", "not an option"),
        ] {
            let error = parse_output(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }
}
