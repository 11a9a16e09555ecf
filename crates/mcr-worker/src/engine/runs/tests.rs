use super::super::send::datagrams;
use super::*;

fn datagram(frame: u32, bytes: u16) -> Arrival<u32> {
    Arrival {
        piece: Piece { frame, start: 52, bytes: u32::from(bytes) },
        segment_bytes: bytes,
        datagrams: 1,
        first_match: true,
        ttl: 9,
        dscp: 0,
    }
}

fn super_frame(frame: u32, segment_bytes: u16, datagrams: u16, last: u32) -> Arrival<u32> {
    let bytes = u32::from(segment_bytes) * u32::from(datagrams - 1) + last;
    Arrival {
        piece: Piece { frame, start: 52, bytes },
        segment_bytes,
        datagrams,
        ..datagram(frame, segment_bytes)
    }
}

/// Joins arrivals to one rule, closing runs as required. Returns the frames, datagrams and bytes of each run.
fn runs_of(arrivals: &[Arrival<u32>], same_ttl: bool, same_dscp: bool) -> Vec<(Vec<u32>, u16, u32)> {
    let mut runs = Runs::new(1);
    let mut closed = Vec::new();
    let mut close = |runs: &mut Runs<u32>| {
        let (run, pieces) = runs.close(0).unwrap();
        assert_eq!(run.bytes, pieces.iter().map(|piece| piece.bytes).sum::<u32>());
        assert_eq!(datagrams(pieces, run.segment_bytes).count(), usize::from(run.datagrams));
        closed.push((pieces.iter().map(|p| p.frame).collect(), run.datagrams, run.bytes));
    };
    for arrival in arrivals {
        match runs.join(0, arrival, same_ttl, same_dscp) {
            Joined::Yes => {}
            Joined::CloseRule => {
                close(&mut runs);
                assert_eq!(runs.join(0, arrival, same_ttl, same_dscp), Joined::Yes);
            }
            Joined::CloseAll => panic!("few runs, few pieces"),
        }
    }
    close(&mut runs);
    closed
}

#[test]
fn a_shorter_datagram_ends_a_run() {
    let sizes = [100, 100, 60, 100, 120, 120, 0, 0, 120];
    let arrivals: Vec<_> = (0..).zip(sizes).map(|(frame, bytes)| datagram(frame, bytes)).collect();
    let expected = [
        (vec![0, 1, 2], 3, 260),
        (vec![3], 1, 100),
        (vec![4, 5], 2, 240),
        (vec![6], 1, 0),
        (vec![7], 1, 0),
        (vec![8], 1, 120),
    ];
    assert_eq!(runs_of(&arrivals, true, true), expected);
}

#[test]
fn a_run_holds_at_most_64_datagrams_and_65507_bytes() {
    let small: Vec<_> = (0..130).map(|frame| datagram(frame, 10)).collect();
    let counts: Vec<_> = runs_of(&small, true, true).iter().map(|run| run.1).collect();
    assert_eq!(counts, [64, 64, 2]);
    let jumbo: Vec<_> = (0..9).map(|frame| datagram(frame, 8_900)).collect();
    let counts: Vec<_> = runs_of(&jumbo, true, true).iter().map(|run| (run.1, run.2)).collect();
    assert_eq!(counts, [(7, 62_300), (2, 17_800)]);
    let largest = [datagram(0, 65_507), datagram(1, 1)];
    assert_eq!(runs_of(&largest, true, true).len(), 2);
}

#[test]
fn super_frames_join_runs_of_their_size() {
    let arrivals = [
        super_frame(0, 1_000, 8, 1_000),
        datagram(1, 1_000),
        super_frame(2, 1_000, 3, 500),
        super_frame(3, 1_000, 2, 1_000),
        super_frame(4, 900, 2, 900),
        datagram(5, 1_000),
    ];
    let expected =
        [(vec![0, 1, 2], 12, 11_500), (vec![3], 2, 2_000), (vec![4], 2, 1_800), (vec![5], 1, 1_000)];
    assert_eq!(runs_of(&arrivals, true, true), expected);
}

#[test]
fn ttl_and_dscp_end_a_run_only_if_an_output_depends_on_them() {
    let arrivals = [
        datagram(0, 10),
        Arrival { ttl: 8, ..datagram(1, 10) },
        Arrival { ttl: 8, dscp: 46, ..datagram(2, 10) },
    ];
    for (same_ttl, same_dscp, expected) in [
        (false, false, vec![3]),
        (true, false, vec![1, 2]),
        (false, true, vec![2, 1]),
        (true, true, vec![1, 1, 1]),
    ] {
        let counts: Vec<_> = runs_of(&arrivals, same_ttl, same_dscp).iter().map(|run| run.1).collect();
        assert_eq!(counts, expected, "{same_ttl} {same_dscp}");
    }
}

#[test]
fn runs_of_rules_are_independent_and_close_in_the_order_they_opened() {
    let mut runs = Runs::new(3);
    for (rule, frame) in [(2, 0), (0, 1), (2, 2), (0, 3), (1, 4)] {
        assert_eq!(runs.join(rule, &datagram(frame, 10), true, true), Joined::Yes);
    }
    assert!(runs.close(0).is_some());
    assert_eq!(runs.join(0, &datagram(5, 10), true, true), Joined::Yes);
    let closed: Vec<_> = (0..runs.opened())
        .filter_map(|place| {
            let (run, pieces) = runs.close_at(place)?;
            Some((run.rule, pieces.iter().map(|piece| piece.frame).collect::<Vec<_>>()))
        })
        .collect();
    assert_eq!(closed, [(2, vec![0, 2]), (1, vec![4]), (0, vec![5])]);
    runs.clear();
    assert_eq!(runs.opened(), 0);
}

#[test]
fn full_lists_ask_to_close_all() {
    let mut runs = Runs::new(MAX_OPEN + 1);
    for rule in 0..u32::try_from(MAX_OPEN).unwrap() {
        assert_eq!(runs.join(rule, &datagram(rule, 10), true, true), Joined::Yes);
    }
    assert_eq!(runs.join(u32::try_from(MAX_OPEN).unwrap(), &datagram(0, 10), true, true), Joined::CloseAll);
    // An open run takes more.
    assert_eq!(runs.join(0, &datagram(0, 10), true, true), Joined::Yes);

    let mut runs = Runs::new(64);
    for n in 0..u32::try_from(MAX_PIECES).unwrap() {
        assert_eq!(runs.join(n % 64, &datagram(n, 10), true, true), Joined::Yes);
    }
    assert_eq!(runs.join(1, &datagram(0, 10), true, true), Joined::CloseAll);
}
