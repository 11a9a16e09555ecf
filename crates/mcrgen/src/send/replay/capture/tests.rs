use super::*;

use etherparse::PacketBuilder;
use std::io::Write;

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

/// A UDP frame of Ethernet.
fn frame(group: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2; 6], [1, 0, 0x5e, 1, 1, 1]).ipv4([10, 0, 0, 1], group, 8).udp(5000, port);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

/// A pcap file of one link type: time in seconds and in units of the magic number, the length on the wire, the bytes.
fn pcap(magic: u32, link: u32, packets: &[(u32, u32, usize, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    let header = [magic, 0x0004_0002, 0, 0, 65_535, link];
    header.iter().for_each(|word| file.extend(word.to_le_bytes()));
    for (seconds, fraction, wire, bytes) in packets {
        [*seconds, *fraction, length(bytes), u32::try_from(*wire).unwrap()]
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
        file.extend(bytes);
    }
    file
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

/// All datagrams of a file, and what was passed over.
fn read(bytes: &[u8]) -> Result<(Vec<Captured>, BTreeMap<&'static str, u64>)> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let mut capture = Capture::open(file.path())?;
    let mut found = Vec::new();
    while let Some(datagram) = capture.next()? {
        found.push(datagram);
    }
    Ok((found, capture.skipped().clone()))
}

fn whole(seconds: u32, fraction: u32, bytes: Vec<u8>) -> (u32, u32, usize, Vec<u8>) {
    (seconds, fraction, bytes.len(), bytes)
}

#[test]
fn datagrams_are_read_with_their_times() {
    for (magic, unit_ns) in [(MICROSECONDS, 1000), (NANOSECONDS, 1)] {
        let packets = [
            whole(100, 5, frame([239, 1, 1, 1], 5000, b"first")),
            whole(101, 7, frame([239, 1, 1, 2], 5001, b"")),
        ];
        let (found, skipped) = read(&pcap(magic, 1, &packets)).unwrap();
        let expected = [(100, 5, "239.1.1.1:5000", &b"first"[..]), (101, 7, "239.1.1.2:5001", b"")];
        let expected = expected.map(|(seconds, fraction, destination, payload)| Captured {
            at_ns: seconds * 1_000_000_000 + fraction * unit_ns,
            destination: destination.parse().unwrap(),
            payload: payload.to_vec(),
        });
        assert_eq!((found.as_slice(), skipped.len()), (&expected[..], 0));
    }
}

/// A block of pcapng (draft-ietf-opsawg-pcapng).
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let body = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
    let total = (length(&body) + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &total, &body, &total].concat()
}

#[test]
fn interfaces_of_pcapng_have_their_own_clocks_and_links() {
    let ethernet = frame([239, 1, 1, 1], 5000, b"x");
    let section =
        block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    // Ethernet with microseconds; raw IP with nanoseconds (option 9, if_tsresol).
    let interfaces = [
        block(1, &[1, 0, 0, 0, 0, 0, 4, 0]),
        block(1, &[101, 0, 0, 0, 0, 0, 4, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let packet = |interface: u32, stamp: u64, bytes: &[u8]| {
        let halves = [stamp >> 32, stamp & 0xffff_ffff].map(|half| u32::try_from(half).unwrap());
        let words = [interface, halves[0], halves[1], length(bytes), length(bytes)];
        let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        body.extend(bytes);
        block(6, &body)
    };
    let simple = block(3, &[&length(&ethernet).to_le_bytes()[..], &ethernet].concat());
    let packets = [packet(0, 7_000_000, &ethernet), packet(1, 7_000_000_005, &ethernet[14..]), simple];
    let (found, skipped) = read(&[section, interfaces.concat(), packets.concat()].concat()).unwrap();
    let times: Vec<u64> = found.iter().map(|datagram| datagram.at_ns).collect();
    assert_eq!((times, skipped.len()), (vec![7_000_000_000, 7_000_000_005, 7_000_000_005], 0));
}

#[test]
fn link_types_of_linux_are_read() {
    let ethernet = frame([239, 1, 1, 1], 5000, b"x");
    let packet = &ethernet[14..];
    let cooked = [&[0, 2, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 8, 0][..], packet].concat();
    let cooked_2 = [&[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 2, 6, 2, 2, 2, 2, 2, 2, 0, 0][..], packet].concat();
    let tagged = [&ethernet[..12], &[0x81, 0, 0, 7], &ethernet[12..]].concat();
    for (link, bytes) in
        [(1, ethernet.clone()), (1, tagged), (101, packet.to_vec()), (113, cooked), (276, cooked_2)]
    {
        let (found, skipped) = read(&pcap(MICROSECONDS, link, &[whole(1, 0, bytes)])).unwrap();
        assert_eq!(found.len(), 1, "link type {link}: {skipped:?}");
        assert_eq!(found[0].payload, b"x");
    }
    let (found, skipped) = read(&pcap(MICROSECONDS, 147, &[whole(1, 0, ethernet)])).unwrap();
    assert_eq!((found.len(), skipped), (0, BTreeMap::from([("link_type", 1)])));
}

#[test]
fn what_is_no_whole_datagram_is_counted() {
    let usual = frame([239, 1, 1, 1], 5000, b"usual");
    let mut fragment = usual.clone();
    fragment[20] = 0x20;
    let mut tcp = usual.clone();
    tcp[23] = 6;
    let cut = (1, 0, usual.len() + 1, usual.clone());
    let packets =
        [cut, whole(1, 0, fragment), whole(1, 0, tcp), whole(1, 0, vec![1]), whole(2, 0, usual.clone())];
    let file = pcap(MICROSECONDS, 1, &packets);
    let (found, skipped) = read(&file).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(skipped, BTreeMap::from([("fragment", 1), ("not_udp", 2), ("truncated", 1)]));
    let (found, skipped) = read(&file[..file.len() - 1]).unwrap();
    assert_eq!((found.len(), skipped.get("cut_off")), (0, Some(&1)), "the file ends within a packet");
}

#[test]
fn what_is_no_capture_is_refused() {
    for bytes in [&b""[..], b"x", b"<html>no capture at all, but long enough for a header</html>"] {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains("neither pcap nor pcapng"), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, valid in 0..60_usize) {
        let file = pcap(MICROSECONDS, 1, &[whole(1, 0, frame([239, 1, 1, 1], 5000, b"x"))]);
        let _ = read(&[&file[..valid.min(file.len())], &bytes].concat());
    }

    #[test]
    fn times_do_not_overflow(stamp: u64, resolution: u64, offset: i64) {
        let interface = Interface { link: Linktype::ETHERNET, resolution, offset };
        let _ = interface.nanoseconds(stamp);
    }
}
