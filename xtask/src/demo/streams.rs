//! What the demo relays.

/// A stream, and where it must be received.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Its rule.
    pub(crate) name: &'static str,
    /// The group it is sent to.
    pub(crate) input: &'static str,
    /// The port it is sent to.
    pub(crate) input_port: &'static str,
    /// Groups and ports at which it must be received.
    pub(crate) outputs: &'static [(&'static str, &'static str)],
}

/// The startup file.
pub(crate) const CONFIG: &str = r#"// One rule per stream, from eth0 to eth1.
{
  rules: [
    {
      name: "translate",
      input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [{ interface: "eth1", group: "239.2.1.1", port: 5001 }],
    },
    {
      name: "fan-out",
      input: { interface: "eth0", group: "239.1.1.2", port: 5000 },
      outputs: [
        { interface: "eth1", group: "239.2.2.1", port: 5002 },
        { interface: "eth1", group: "239.2.2.2", port: 5003 },
      ],
    },
    {
      name: "to-ipv6",
      input: { interface: "eth0", group: "239.1.1.3", port: 5000 },
      outputs: [{ interface: "eth1", group: "ff15::3", port: 5004 }],
    },
  ],
}
"#;

/// The streams of [`CONFIG`].
pub(crate) const CONFIGURED: [Stream; 3] = [
    Stream { name: "translate", input: "239.1.1.1", input_port: "5000", outputs: &[("239.2.1.1", "5001")] },
    Stream {
        name: "fan-out",
        input: "239.1.1.2",
        input_port: "5000",
        outputs: &[("239.2.2.1", "5002"), ("239.2.2.2", "5003")],
    },
    Stream { name: "to-ipv6", input: "239.1.1.3", input_port: "5000", outputs: &[("ff15::3", "5004")] },
];

/// The stream whose rule is added while the others are relayed.
pub(crate) const ADDED: Stream =
    Stream { name: "added-live", input: "239.1.1.4", input_port: "5000", outputs: &[("239.2.4.4", "5005")] };

/// Its output, for `mcrctl add`.
pub(crate) const ADDED_OUTPUT: &str = "239.2.4.4:5005:eth1";
