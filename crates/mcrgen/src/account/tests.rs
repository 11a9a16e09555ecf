use super::window::{WINDOW, Window};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const ALL: Expectation = Expectation { late: false, cut_off_ns: None };
const LATE: Expectation = Expectation { late: true, cut_off_ns: None };

fn header(sequence: u64) -> Header {
    Header { last: false, stream: 0, streams: 1, session: 1, sequence, planned_total: 0, time_ns: 0 }
}

fn account_of(headers: impl IntoIterator<Item = Header>) -> Account {
    let mut account = Account::new(1);
    for header in headers {
        account.record(0, &header, 100, 0);
    }
    account
}

fn totals(sequences: &[u64], planned_total: u64, expectation: Expectation) -> Totals {
    account_of(sequences.iter().map(|sequence| Header { planned_total, ..header(*sequence) }))
        .summary(expectation)
        .totals
}

#[test]
fn loss_duplicates_and_order() {
    let none = Totals::default();
    let cases: &[(&str, &[u64], u64, Expectation, Totals)] = &[
        ("in order", &[0, 1, 2], 0, ALL, Totals { received: 3, bytes: 300, ..none }),
        ("head lost", &[2, 3], 0, ALL, Totals { received: 2, lost: 2, bytes: 200, ..none }),
        ("started late", &[2, 3, 5], 0, LATE, Totals { received: 3, lost: 1, bytes: 300, ..none }),
        ("tail lost", &[0, 1], 5, ALL, Totals { received: 2, lost: 3, bytes: 200, ..none }),
        ("late and tail lost", &[1, 2], 5, LATE, Totals { received: 2, lost: 2, bytes: 200, ..none }),
        ("reordered", &[1, 0, 2], 3, ALL, Totals { received: 3, reordered: 1, bytes: 300, ..none }),
        ("copies", &[0, 0, 1, 0], 2, ALL, Totals { received: 2, duplicates: 2, bytes: 200, ..none }),
        (
            "too far behind",
            &[WINDOW + 7, 7],
            0,
            LATE,
            Totals { received: 1, stale: 1, lost: 0, bytes: 100, ..none },
        ),
    ];
    for (name, sequences, planned, expectation, expected) in cases {
        assert_eq!(totals(sequences, *planned, *expectation), *expected, "{name}");
    }
}

#[test]
fn the_window_clears_what_it_moves_over() {
    let mut window = Window::starting_at(0);
    assert_eq!(window.insert(WINDOW), Arrival::InOrder);
    assert_eq!(window.insert(0), Arrival::Stale);
    assert_eq!(window.insert(1), Arrival::Late);
    assert_eq!(window.insert(1), Arrival::Duplicate);
    assert_eq!(window.insert(u64::MAX), Arrival::InOrder);
    assert_eq!(window.insert(u64::MAX - WINDOW + 1), Arrival::Late);
    assert_eq!(window.insert(u64::MAX), Arrival::Duplicate);
}

#[test]
fn the_highest_sequence_number_does_not_overflow() {
    assert_eq!(totals(&[u64::MAX], 0, ALL).lost, u64::MAX - 1);
}

#[test]
fn a_restarted_sender_is_a_new_session() {
    let account = account_of([header(0), header(1), Header { session: 2, ..header(0) }]);
    let summary = account.summary(ALL);
    assert_eq!((summary.sessions, summary.totals.received, summary.totals.duplicates), (2, 3, 0));
}

#[test]
fn the_last_datagram_corrects_the_planned_total() {
    let planned = |sequence| Header { planned_total: 10, ..header(sequence) };
    let mut account = account_of([planned(0), planned(1)]);
    assert!(!account.is_complete());
    account.record(0, &Header { last: true, ..planned(3) }, 100, 0);
    assert_eq!(account.summary(ALL).totals.lost, 1);
    account.record(0, &planned(2), 100, 0);
    assert!(account.is_complete());
    assert_eq!(account.summary(ALL).totals.lost, 0);
}

#[test]
fn complete_only_when_every_group_has_traffic() {
    let header = Header { streams: 2, planned_total: 2, ..header(0) };
    let mut account = Account::new(2);
    assert!(!account.is_complete());
    account.record(0, &header, 100, 0);
    assert!(!account.is_complete());
    account.record(1, &Header { stream: 1, ..header }, 100, 0);
    assert!(account.is_complete());
}

#[test]
fn a_stream_without_any_datagram_is_lost() {
    let header = Header { streams: 3, planned_total: 8, ..header(0) };
    let mut account = Account::new(3);
    for (stream, sequence) in [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)] {
        account.record(stream.into(), &Header { stream, sequence, ..header }, 100, 0);
    }
    let summary = account.summary(ALL);
    assert_eq!((summary.totals.received, summary.totals.lost, summary.silent_groups), (5, 3, 1));
    assert_eq!(summary.streams[1].totals.lost, 3);

    let mut one_group = Account::new(1);
    one_group.record(0, &header, 100, 0);
    assert_eq!(one_group.summary(ALL).totals.lost, 2, "the receiver did not join the other groups");
}

#[test]
fn a_flowing_stream_has_no_loss_at_its_end() {
    let mut account = Account::new(1);
    for sequence in 0..10 {
        let header = Header { planned_total: 1000, ..header(sequence) };
        account.record(0, &header, 100, sequence * 100_000_000);
    }
    let lost = |cut_off_ns| account.summary(Expectation { late: false, cut_off_ns }).totals.lost;
    assert_eq!(lost(Some(1_000_000_000)), 0);
    assert_eq!(lost(Some(1_600_000_000)), 990, "silent for more than its usual interval");
    assert_eq!(lost(None), 990);
}

#[test]
fn foreign_and_corrupted_datagrams_are_counted_separately() {
    let mut account = account_of([header(0)]);
    account.reject(Unusable::Foreign);
    account.reject(Unusable::Corrupted);
    account.reject(Unusable::Corrupted);
    let summary = account.summary(ALL);
    assert_eq!((summary.unknown, summary.corrupted, summary.totals.received), (1, 2, 1));
}

#[test]
fn sessions_are_bounded() {
    let sessions = MAX_SESSIONS as u64 + 5;
    let account = account_of((0..sessions).map(|session| Header { session, ..header(0) }));
    let summary = account.summary(ALL);
    assert_eq!((summary.sessions, summary.unknown), (MAX_SESSIONS, 5));
}

/// A simple reference implementation.
fn reference(arrivals: &[u64], planned: u64, late: bool) -> Totals {
    let mut seen = BTreeSet::new();
    let mut expected = Totals::default();
    for sequence in arrivals {
        if !seen.insert(*sequence) {
            expected.duplicates += 1;
        } else if seen.last() != Some(sequence) {
            expected.reordered += 1;
        }
    }
    let end = seen.last().map_or(0, |last| last + 1).max(planned);
    let start = if late { seen.first().copied().unwrap_or(0) } else { 0 };
    expected.received = seen.len() as u64;
    expected.lost = (start..end).filter(|sequence| !seen.contains(sequence)).count() as u64;
    expected.bytes = expected.received * 100;
    expected
}

/// Sequence numbers after a network that loses, duplicates and reorders.
fn arrivals() -> impl Strategy<Value = Vec<u64>> {
    let datagram = (0u64..200, 0u8..10);
    prop::collection::vec(datagram, 1..600).prop_flat_map(|picked| {
        let copies = |fate| match fate {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        let arrivals: Vec<u64> = picked
            .into_iter()
            .flat_map(|(sequence, fate)| std::iter::repeat_n(sequence * 300, copies(fate)))
            .collect();
        Just(arrivals).prop_shuffle()
    })
}

proptest! {
    #[test]
    fn equals_the_reference_implementation(arrivals in arrivals(), tail in 0u64..100, with_plan: bool, late: bool) {
        prop_assume!(!arrivals.is_empty());
        let end = arrivals.iter().max().map_or(0, |highest| highest + 1);
        let planned = if with_plan { end + tail } else { 0 };
        let expectation = Expectation { late, cut_off_ns: None };
        prop_assert_eq!(totals(&arrivals, planned, expectation), reference(&arrivals, planned, late));
    }

    #[test]
    fn a_permutation_of_a_complete_stream_has_no_loss(
        order in Just((0..500u64).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let account = account_of(order.iter().map(|sequence| Header { planned_total: 500, ..header(*sequence) }));
        prop_assert!(account.is_complete());
        prop_assert_eq!(account.summary(ALL).totals, reference(&order, 500, false));
    }
}
