mod oracle;

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn fragment(
    group: u8,
    source: u32,
    identification: u32,
    range: std::ops::Range<u16>,
    more: bool,
) -> Fragment {
    let head = FragmentHead {
        source: Ipv4Addr::from_bits(0x0a00_0000 + source).into(),
        destination: Ipv4Addr::new(239, 1, 1, group).into(),
        identification,
        next_header: 17,
        ttl: 9,
        traffic_class: 0,
    };
    Fragment { head, offset: range.start, more, ip_offset: 0, data: 0..usize::from(range.end - range.start) }
}

/// A reassembly, its time and its losses.
#[derive(Default)]
struct Bench {
    reassembly: Reassembly,
    now_ns: u64,
    lost: Vec<Lost>,
}

impl Bench {
    fn take(&mut self, fragment: &Fragment) -> Taken {
        self.take_with(fragment, 7)
    }

    fn take_with(&mut self, fragment: &Fragment, content: u8) -> Taken {
        let data = vec![content; fragment.data.len()];
        let lost = &mut self.lost;
        self.reassembly.take(fragment, &data, self.now_ns, |one| lost.push(one))
    }

    fn losses(&self) -> Vec<Loss> {
        self.lost.iter().map(|lost| lost.loss).collect()
    }
}

proptest! {
    /// Scripts of random fragments, which mostly contradict each other.
    #[test]
    fn random_fragments_are_handled_as_by_the_oracle(script in proptest::collection::vec(any::<u8>(), 0..400)) {
        oracle::assert_agreement(&script);
    }

    /// The fragments of datagrams, in any order and interleaved, some of them twice, one perhaps with a wrong place.
    #[test]
    fn datagrams_in_any_order_are_handled_as_by_the_oracle(
        datagrams in proptest::collection::vec((1..8_u8, 1..63_u8), 1..8),
        order in any::<prop::sample::Index>().prop_flat_map(|_| Just(()).prop_perturb(|(), mut random| {
            std::array::from_fn::<u32, 64, _>(|_| random.next_u32())
        })),
        wrong in proptest::option::of((any::<prop::sample::Index>(), 0..32_u8)),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut steps: Vec<[u8; 4]> = Vec::new();
        for (number, (units, last)) in (0..).zip(&datagrams) {
            // Fragments of two units each, then the last one.
            for place in 0..*units {
                steps.push([number | 8, 2 * place, 16, 0]);
            }
            steps.push([number, 2 * units, *last, 0]);
        }
        for index in again {
            steps.push(*index.get(&steps));
        }
        if let Some((index, place)) = wrong {
            let index = index.index(steps.len());
            steps[index][1] = place;
        }
        let mut keyed: Vec<_> = order.iter().copied().cycle().zip(0..).zip(steps).collect();
        keyed.sort_by_key(|((random, number), _)| random.rotate_left(number % 31));
        let script: Vec<u8> = keyed.into_iter().flat_map(|(_, step)| step).collect();
        oracle::assert_agreement(&script);
    }
}

#[test]
fn the_largest_datagram_in_the_most_fragments() {
    let mut bench = Bench::default();
    let part = |number: u16| 256 * number..(256 * number).saturating_add(256).min(65_515);
    for number in (1..=255).rev() {
        assert_eq!(bench.take(&fragment(1, 1, 1, part(number), number < 255)), Taken::Held, "{number}");
    }
    assert_eq!(bench.reassembly.under_way(), 1);
    assert_eq!(bench.take(&fragment(1, 1, 1, part(0), true)), Taken::Complete);
    let mut packet = vec![0; 65_535];
    assert_eq!(bench.reassembly.write_packet(&mut packet[1..]), None, "no room");
    assert!(bench.reassembly.is_idle() && bench.lost.is_empty());
    for number in 0..257 {
        bench.take(&fragment(1, 1, 2, 8 * number..8 * number + 8, true));
    }
    assert_eq!(bench.losses(), [Loss::Overlap], "one fragment too many");
}

#[test]
fn what_does_not_come_in_time_is_given_up_with_its_port() {
    let mut bench = Bench::default();
    let port = [0, 0, 0x13, 0x88, 0, 0, 0, 0];
    let first = fragment(1, 1, 1, 0..8, true);
    let lost = &mut bench.lost;
    assert_eq!(bench.reassembly.take(&first, &port, 0, |one| lost.push(one)), Taken::Held);
    assert_eq!(bench.take(&fragment(1, 1, 2, 8..16, false)), Taken::Held);
    bench.now_ns = HOLD_NS - 1;
    assert_eq!(bench.take(&fragment(1, 1, 1, 16..24, true)), Taken::Held, "time does not start again");
    bench.now_ns = HOLD_NS;
    let Bench { reassembly, lost, now_ns } = &mut bench;
    reassembly.expire(*now_ns, |one| lost.push(one));
    let seen: Vec<_> = lost.iter().map(|lost| (lost.loss, lost.port)).collect();
    assert_eq!(seen, [(Loss::Incomplete, Some(5000)), (Loss::Incomplete, None)]);
    assert!(reassembly.is_idle());
    // A fragment that comes later begins another datagram.
    assert_eq!(bench.take(&fragment(1, 1, 1, 8..16, false)), Taken::Held);
}

#[test]
fn an_overlap_refuses_the_datagram_and_what_follows_of_it() {
    for (range, more, content) in [(8..24, true, 7), (0..16, false, 7), (0..16, true, 8), (0..8, true, 7)] {
        let mut bench = Bench::default();
        bench.take(&fragment(1, 1, 1, 0..16, true));
        assert_eq!(bench.take(&fragment(1, 1, 1, 0..16, true)), Taken::Ignored, "the same again");
        assert_eq!(bench.losses(), []);
        assert_eq!(bench.take_with(&fragment(1, 1, 1, range.clone(), more), content), Taken::Ignored);
        assert_eq!(bench.losses(), [Loss::Overlap], "{range:?} {more} {content}");
        assert_eq!(bench.take(&fragment(1, 1, 1, 16..24, false)), Taken::Ignored, "what follows");
        assert_eq!(bench.reassembly.under_way(), 0);
        bench.now_ns = HOLD_NS;
        assert_eq!(bench.take(&fragment(1, 1, 1, 16..24, false)), Taken::Held, "another datagram");
        assert_eq!(bench.losses(), [Loss::Overlap], "counted once");
    }
}

#[test]
fn a_flood_pushes_out_its_own() {
    let mut bench = Bench::default();
    // Two senders of another group, and one of the flooded group, have a datagram under way each.
    let others = [(2, 1, 1), (2, 2, 1), (1, 77, 1)];
    for (group, source, id) in others {
        assert_eq!(bench.take(&fragment(group, source, id, 0..8, true)), Taken::Held);
    }
    for id in 0..10_000 {
        assert_eq!(bench.take(&fragment(1, 1, id, 8..16, true)), Taken::Held);
    }
    assert_eq!(bench.lost.len(), 10_000 + 3 - MAX_DATAGRAMS);
    assert!(
        bench.lost.iter().all(|lost| lost.source == Ipv4Addr::new(10, 0, 0, 1) && lost.loss == Loss::Evicted)
    );
    for (group, source, id) in others {
        assert_eq!(
            bench.take(&fragment(group, source, id, 8..16, false)),
            Taken::Complete,
            "{group} {source}"
        );
    }
    // With forged sources, the other group still keeps its own.
    assert_eq!(bench.take(&fragment(2, 1, 2, 0..8, true)), Taken::Held);
    for source in 1_000..20_000 {
        bench.take(&fragment(1, source, 1, 0..8, true));
    }
    assert_eq!(bench.take(&fragment(2, 1, 2, 8..16, false)), Taken::Complete);
    assert_eq!(bench.reassembly.under_way(), MAX_DATAGRAMS - 1);
}

/// The shares are those of the slots in use, whatever came and went.
#[test]
fn shares_are_counted_right() {
    let mut bench = Bench::default();
    for number in 0..5_000_u32 {
        let (group, source) = (u8::try_from(number % 5).unwrap(), number % 7);
        bench.take(&fragment(group, source, number % 60, 0..8, number % 3 == 0));
        bench.now_ns += HOLD_NS / 300;
        let reassembly = &bench.reassembly;
        let used: Vec<&Slot> = reassembly.used.iter().map(|at| &reassembly.slots[*at]).collect();
        for slot in &used {
            let of_destination = used.iter().filter(|one| one.head.destination == slot.head.destination);
            let of_source = of_destination.clone().filter(|one| one.head.source == slot.head.source).count();
            let share = (usize::from(slot.share.0), usize::from(slot.share.1));
            assert_eq!(share, (of_destination.count(), of_source));
        }
        assert_eq!(reassembly.used.len() + reassembly.free.len(), MAX_DATAGRAMS);
    }
}
