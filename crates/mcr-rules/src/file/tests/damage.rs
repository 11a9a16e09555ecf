//! Promise R31: a file that is cut at any byte, or has flipped bits, is refused with line and column, or is read as what it
//! says.

use super::super::*;

const FILE: &str = r#"{
  // the studio's feeds
  pinning: { eth0: [1, 2] },
  rules: [
    { name: "vidéo", input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [ { interface: "eth1", group: "239.2.2.2", port: 5001, ttl: "decrement", dscp: 46 } ] },
    { input: { interface: 'eth1', group: 'ff15::1', port: 0x1388, sources: ['fd00::1'] },
      outputs: [ { interface: "eth2", group: "10.0.0.9", port: 1, source: "10.0.0.1", }, ], },
  ],
  settings: { worker_grace_s: 30, io: "auto" },
}
"#;

fn text() -> String {
    FILE.replace('é', "e") + "// é\n"
}

/// What every damaged file must be; returns whether it was read.
fn assert_refused_or_read(bytes: Vec<u8>, what: &str) -> bool {
    let said = String::from_utf8_lossy(&bytes).into_owned();
    match decode(bytes).and_then(|text| Ok((parse(&text)?, text))) {
        Err(errors) => {
            assert!(!errors.is_empty(), "{what}");
            assert!(errors.iter().all(|error| error.location.is_some()), "{what}: {errors:?}");
            false
        }
        Ok((config, text)) => {
            // Its values as a plain reader of JSON5 has them, given as plain JSON, are the same config.
            let values: serde_json::Value =
                json5::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error}: {said}"));
            assert_eq!(parse(&values.to_string()).as_ref(), Ok(&config), "{what}: {said}");
            assert_eq!(parse(&to_json5(&config)).as_ref(), Ok(&config), "{what}: {said}");
            true
        }
    }
}

#[test]
fn a_file_cut_at_any_byte_is_refused_unless_nothing_but_the_end_is_missing() {
    let bytes = text().into_bytes();
    assert!(assert_refused_or_read(bytes.clone(), "whole"));
    let closed = bytes.iter().rposition(|byte| *byte == b'}').unwrap();
    for cut in 0..bytes.len() {
        let read = assert_refused_or_read(bytes[..cut].to_vec(), &format!("cut at {cut}"));
        // A cut may split the last comment's sign, or its letter.
        let split = bytes[..cut].ends_with(b"\n/") || std::str::from_utf8(&bytes[..cut]).is_err();
        assert_eq!(read, cut > closed && !split, "cut at {cut}");
    }
}

#[test]
fn a_hundred_thousand_flipped_bits_never_panic_and_never_say_what_is_not_there() {
    let bytes = text().into_bytes();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        // Knuth's MMIX generator; its high bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut read = 0;
    for round in 0..100_000 {
        let mut damaged = bytes.clone();
        let flips: Vec<(usize, usize)> = (0..=round % 4).map(|_| (random(bytes.len()), random(8))).collect();
        flips.iter().for_each(|(at, bit)| damaged[*at] ^= 1 << bit);
        read += usize::from(assert_refused_or_read(damaged, &format!("round {round}, flipped {flips:?}")));
    }
    assert!((1_000..90_000).contains(&read), "{read} of 100,000 were read");
}
