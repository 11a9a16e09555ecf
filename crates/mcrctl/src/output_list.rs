//! Outputs on the command line: `GROUP:PORT:INTERFACE[/OPTION=VALUE…]`, separated by commas. An interface name can't hold a
//! slash (`dev_valid_name` in the kernel); a comma in it is written as `\\,`.

use std::net::IpAddr;

use mcr_rules::file::ConfigError;
use mcr_rules::{InterfaceName, NameError, Output, OutputOptions, destination};

/// Why a text is not an output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutputError {
    /// Its form, or one of its values.
    #[error("{0}")]
    Wrong(String),
    /// The name of the interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
}

/// Why a text is not the name of an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interface {text:?}: {error}")]
pub(crate) struct InterfaceError {
    text: String,
    error: NameError,
}

impl InterfaceError {
    /// Whether the text may be an altname.
    fn is_long(&self) -> bool {
        matches!(self.error, NameError::TooLongForInterface { .. })
    }

    /// As in a config.
    pub(crate) fn to_config_error(&self) -> ConfigError {
        ConfigError::interface_name(&self.text, &self.error)
    }
}

/// The interface of an argument. The daemon knows which interface a name means that is too long for one, so that the command
/// has to report it.
pub(crate) type Interface = Result<InterfaceName, InterfaceError>;

/// Reads an interface; only names that are too long remain as errors for the command.
pub(crate) fn parse_interface(text: &str) -> Result<Interface, NameError> {
    let error = match text.parse() {
        Ok(name) => return Ok(Ok(name)),
        Err(error) => InterfaceError { text: text.to_owned(), error },
    };
    if error.is_long() { Ok(Err(error)) } else { Err(error.error) }
}

fn wrong(message: impl Into<String>) -> OutputError {
    OutputError::Wrong(message.into())
}

const SHAPE: &str = "GROUP:PORT:INTERFACE is expected, an IPv6 group in brackets";

/// Outputs given as one argument.
#[derive(Clone, Debug)]
pub(crate) struct OutputList(pub(crate) Result<Vec<Output>, InterfaceError>);

impl std::str::FromStr for OutputList {
    type Err = OutputError;

    fn from_str(text: &str) -> Result<Self, OutputError> {
        let mut parts = vec![String::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let next = match c {
                ',' => {
                    parts.push(String::new());
                    continue;
                }
                '\\' => chars.next().unwrap_or(c),
                _ => c,
            };
            parts.last_mut().expect("there is always one").push(next);
        }
        match parts.iter().map(|part| parse_output(part)).collect() {
            Ok(outputs) => Ok(Self(Ok(outputs))),
            Err(OutputError::Interface(error)) if error.is_long() => Ok(Self(Err(error))),
            Err(error) => Err(error),
        }
    }
}

/// Reads one output.
fn parse_output(text: &str) -> Result<Output, OutputError> {
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(wrong(format!("{SHAPE}, without {scheme}://")));
    }
    let mut parts = text.split('/');
    let (group, port, interface) = split_destination(parts.next().unwrap_or_default())?;
    let mut output = Output {
        interface: interface.parse().map_err(|error| InterfaceError { text: interface.to_owned(), error })?,
        group,
        port,
        options: OutputOptions::default(),
    };
    let mut set = Vec::new();
    for option in parts {
        let name = option.split('=').next().unwrap_or_default();
        if set.contains(&name) {
            return Err(wrong(format!("{name} is given twice")));
        }
        set.push(name);
        output.options.set(option).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(output)
}

fn split_destination(text: &str) -> Result<(IpAddr, u16, &str), OutputError> {
    let (group, rest) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (group, rest) = bracketed.split_once("]:").ok_or_else(|| wrong(SHAPE))?;
            let group = group.parse().map(IpAddr::V6);
            (group.map_err(|_| wrong(format!("{:?} is not an IPv6 address", bracketed_part(text))))?, rest)
        }
        None => {
            let (group, rest) = text.split_once(':').ok_or_else(|| wrong(SHAPE))?;
            let address = destination::parse(group).ok().filter(IpAddr::is_ipv4);
            let address = address.ok_or_else(|| match rest.matches(':').count() {
                0 | 1 => wrong(format!("{group:?} is not an IPv4 address")),
                _ => wrong(SHAPE),
            });
            (address?, rest)
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

#[cfg(test)]
mod tests {
    use mcr_rules::{Dscp, SourceAddress, SourcePort, Ttl};

    use super::*;

    #[test]
    fn outputs_are_read() {
        let plain = parse_output("239.2.2.2:5001:eth1").unwrap();
        assert_eq!((plain.group, plain.port), ("239.2.2.2".parse().unwrap(), 5001));
        assert_eq!(
            (plain.interface.as_str(), plain.options.ttl, plain.options.dscp),
            ("eth1", Ttl::default(), Dscp::default())
        );
        let broadcast = parse_output("broadcast:9:eth1").unwrap();
        assert_eq!((broadcast.group, broadcast.port), (destination::BROADCAST, 9));
        let six = parse_output("[ff15::1]:5000:eth1.5/ttl=64/dscp=34/source=fd01::2").unwrap();
        assert_eq!((six.group, six.interface.as_str()), ("ff15::1".parse().unwrap(), "eth1.5"));
        assert_eq!((six.options.ttl, six.options.dscp), (Ttl::Fixed(64), Dscp::Fixed(34)));
        assert_eq!(six.options.source, Some(SourceAddress::Fixed("fd01::2".parse().unwrap())));
        let words =
            parse_output("10.0.0.1:1:wg0/ttl=decrement/dscp=keep/source=keep/source_port=keep/loop=true")
                .unwrap();
        assert_eq!(
            (words.options.source, words.options.source_port, words.options.loopback),
            (Some(SourceAddress::Keep), Some(SourcePort::Keep), true)
        );
        assert_eq!((words.options.ttl, words.options.dscp), (Ttl::Decrement, Dscp::Keep));
    }

    #[test]
    fn several_outputs_are_separated_by_commas_unless_escaped() {
        let interfaces = |text: &str| -> Vec<String> {
            let OutputList(outputs) = text.parse().unwrap();
            outputs.unwrap().into_iter().map(|output| output.interface.to_string()).collect()
        };
        assert_eq!(interfaces("239.2.2.2:1:eth1,239.2.2.2:2:eth2/ttl=3"), ["eth1", "eth2"]);
        assert_eq!(interfaces("239.2.2.2:1:a\\,b/ttl=3,239.2.2.2:2:c\\\\d"), ["a,b", "c\\d"]);
        assert!("239.2.2.2:1:eth1,".parse::<OutputList>().is_err());
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
            ("239.2.2.2:5000:averylonginterface", "at most 15 are allowed"),
            ("239.2.2.2:5000:eth0:1", "the interface is \"eth0\""),
            ("udp://@239.2.2.2:5000:eth1", "without udp://"),
            ("239.2.2.2:5000:eth1/ttl=0", "1 to 255"),
            ("239.2.2.2:5000:eth1/ttl=1/dscp=2/ttl=3", "ttl is given twice"),
            ("239.2.2.2:5000:eth1/ttl=256", "1 to 255"),
            ("239.2.2.2:5000:eth1/dscp=64", "0 to 63"),
            ("239.2.2.2:5000:eth1/source=here", "neither an address nor"),
            ("239.2.2.2:5000:eth1/source_port=0", "neither 1 to 65535 nor"),
            ("239.2.2.2:5000:eth1/loop=1", "neither true nor false"),
            ("239.2.2.2:5000:eth1/hops=4", "not an option"),
            ("239.2.2.2:5000:eth1/ttl", "ttl=VALUE is expected"),
            ("239.2.2.2:5000:eth1/", "not an option"),
        ] {
            let error = parse_output(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }
}
