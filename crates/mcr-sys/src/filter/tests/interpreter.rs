//! A small interpreter of classic BPF, written from the kernel's networking/filter.rst, independent of the assembler.

use super::super::FilterProgram;

/// A frame as the kernel shows it to a filter.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    pub(super) network_start: usize,
    pub(super) protocol: u16,
    pub(super) hatype: u16,
    pub(super) pkttype: u8,
    /// The tag that the kernel took out of the frame.
    pub(super) vlan: Option<u16>,
    pub(super) mark: u32,
}

impl Frame {
    pub(super) fn ethernet(packet: &[u8]) -> Self {
        let mut bytes = vec![0x45; 14];
        bytes.extend(packet);
        Self { bytes, network_start: 14, hatype: libc::ARPHRD_ETHER, ..Self::without_header(packet) }
    }

    pub(super) fn without_header(packet: &[u8]) -> Self {
        let is_ipv6 = packet.len() >= 40 && packet[0] == 0x60;
        Self {
            bytes: packet.to_vec(),
            network_start: 0,
            protocol: if is_ipv6 { 0x86dd } else { 0x0800 },
            hatype: libc::ARPHRD_NONE,
            pkttype: libc::PACKET_MULTICAST,
            vlan: None,
            mark: 0,
        }
    }

    fn load(&self, offset: u32, bytes: usize) -> Option<u32> {
        let offset = i64::from(offset.cast_signed());
        let ancillary = offset - i64::from(libc::SKF_AD_OFF);
        if (0..i64::from(libc::SKF_AD_MAX)).contains(&ancillary) {
            return Some(match libc::c_int::try_from(ancillary).unwrap() {
                libc::SKF_AD_PROTOCOL => self.protocol.into(),
                libc::SKF_AD_PKTTYPE => self.pkttype.into(),
                libc::SKF_AD_HATYPE => self.hatype.into(),
                libc::SKF_AD_VLAN_TAG_PRESENT => self.vlan.is_some().into(),
                libc::SKF_AD_VLAN_TAG => self.vlan.unwrap_or_default().into(),
                libc::SKF_AD_MARK => self.mark,
                other => panic!("unknown ancillary data {other}"),
            });
        }
        let start = if offset >= 0 {
            offset
        } else {
            assert!(
                offset >= i64::from(libc::SKF_NET_OFF) && offset < i64::from(libc::SKF_AD_OFF),
                "{offset}"
            );
            offset - i64::from(libc::SKF_NET_OFF) + i64::try_from(self.network_start).unwrap()
        };
        let start = usize::try_from(start).unwrap();
        let read = self.bytes.get(start..start + bytes)?;
        Some(read.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }
}

/// Returns whether the frame is accepted.
pub(super) fn passes(program: &FilterProgram, frame: &Frame) -> bool {
    run(program, frame).0
}

/// Returns whether the frame passes, and the number of instructions executed.
pub(super) fn run(program: &FilterProgram, frame: &Frame) -> (bool, usize) {
    let (mut a, mut x, mut at, mut steps) = (0_u32, 0_u32, 0_usize, 0_usize);
    let mut scratch = [None; 16];
    loop {
        let line = program.instructions()[at];
        let k = line.k;
        let place = || usize::try_from(k).unwrap();
        at += 1;
        steps += 1;
        let mut jump = |test: bool| at += usize::from(if test { line.jt } else { line.jf });
        let loaded = match line.code {
            0x20 => frame.load(k, 4),
            0x40 => frame.load(x.wrapping_add(k), 4),
            0x48 => frame.load(x.wrapping_add(k), 2),
            0x50 => frame.load(x.wrapping_add(k), 1),
            0x00 => Some(k),
            0x60 => Some(scratch[place()].expect("written before it is read")),
            0x54 => Some(a & k),
            0x64 => Some(a << k),
            0x0c => Some(a.wrapping_add(x)),
            0x61 => {
                x = scratch[place()].expect("written before it is read");
                Some(a)
            }
            0x02 => {
                scratch[place()] = Some(a);
                Some(a)
            }
            0x03 => {
                scratch[place()] = Some(x);
                Some(a)
            }
            0x07 => {
                x = a;
                Some(a)
            }
            0x05 => {
                at += place();
                Some(a)
            }
            0x15 => {
                jump(a == k);
                Some(a)
            }
            0x25 => {
                jump(a > k);
                Some(a)
            }
            0x35 => {
                jump(a >= k);
                Some(a)
            }
            0x45 => {
                jump(a & k != 0);
                Some(a)
            }
            0x06 => return (k != 0, steps),
            other => panic!("unknown instruction {other:#04x}"),
        };
        // A load beyond the frame ends the program: the frame does not pass.
        let Some(value) = loaded else { return (false, steps) };
        a = value;
    }
}
