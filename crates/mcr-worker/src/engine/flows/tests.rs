use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{OutputSlot, RelayOutput, RelayRule, RuleSet, RuleSlot};
use mcr_link::telemetry::{PageReader, create_page};
use mcr_rules::{OutputOptions, RuleId, RuleOptions};

use super::*;

fn table(ids: &[u64]) -> Table {
    let rules = (0_u32..).zip(ids).map(|(slot, id)| RelayRule {
        id: RuleId::from_bits(*id),
        group: IpAddr::V4(Ipv4Addr::new(239, 1, 1, 1)),
        more_groups: Vec::new(),
        reassemble: true,
        port: 5_000,
        sources: Vec::new(),
        slot: RuleSlot(slot),
        options: RuleOptions::default(),
        merge: None,
        outputs: vec![RelayOutput {
            address: "239.9.9.9:9000".parse().unwrap(),
            options: OutputOptions::default(),
            source: None,
            egress: None,
            slot: OutputSlot(slot),
        }],
    });
    let set = RuleSet { rules: rules.map(Into::into).collect(), ..RuleSet::default() };
    Table::build(&set, |_| None).unwrap()
}

struct Bench {
    table: Table,
    flows: FlowTable,
    page: PageWriter,
    reader: PageReader,
}

impl Bench {
    fn new(ids: &[u64]) -> Self {
        let page = create_page().unwrap();
        let reader = PageReader::map(page.as_fd()).unwrap();
        let page = PageWriter::map(&page, 1, IoBackend::IoUring).unwrap();
        let mut bench = Self { table: Table::empty(), flows: FlowTable::new(), page, reader };
        bench.change(ids);
        bench
    }

    fn change(&mut self, ids: &[u64]) {
        let next = table(ids);
        self.flows.begin_table(&self.table, &next, &self.page);
        self.table = next;
    }

    /// As the engine does it for a run of one datagram.
    fn datagram(&mut self, rule: u32, source: u32, port: u16, now_ns: u64) {
        let index = rule;
        let rule = self.table.rule(index).unwrap();
        let source = AddressBits::from(IpAddr::V4(Ipv4Addr::from_bits(source)));
        if !rule.flow.is(source, port) {
            self.flows.switch(&self.table, (index, rule), (source, port), now_ns, &self.page);
        }
        self.page.set_last(rule.slot, now_ns);
        self.page.count_flow(rule.flow.record(), 1, 10);
    }

    fn flows(&self) -> Vec<(u64, String, u64)> {
        let mut flows: Vec<_> = self
            .reader
            .flows()
            .map(|flow| (flow.rule.to_bits(), flow.source.to_string(), flow.packets))
            .collect();
        flows.sort();
        flows
    }
}

const S: u64 = 1_000_000_000;

#[test]
fn the_number_of_flows_is_limited() {
    let mut bench = Bench::new(&[1]);
    for n in 0..u32::from(MAX_FLOWS) {
        bench.datagram(0, n, 7, S);
    }
    for n in 0..5_000 {
        bench.datagram(0, 100_000 + n, 7, 2 * S);
    }
    assert_eq!((bench.flows().len(), bench.reader.unlisted_packets()), (1_024, 5_000));
    // A flow with a record is still found.
    bench.datagram(0, 5, 7, 3 * S);
    assert!(bench.flows().contains(&(1, "0.0.0.5:7".to_owned(), 2)));
    // Only idle flows are evicted: the most recent one stays.
    for n in 0..2_000 {
        bench.datagram(0, 200_000 + n, 7, 62 * S);
    }
    let flows = bench.flows();
    assert_eq!(flows.len(), 1_024);
    assert!(flows.contains(&(1, "0.0.0.5:7".to_owned(), 2)), "{flows:?}");
    let new = flows.iter().filter(|(_, source, _)| source.starts_with("0.3.")).count();
    assert_eq!(new, 1_023);
}

#[test]
fn flows_continue_in_another_table_and_worker_and_end_with_their_rule() {
    let mut bench = Bench::new(&[1, 2]);
    for (rule, source) in [(0, 9), (1, 9), (1, 8), (0, 9)] {
        bench.datagram(rule, source, 7, S);
    }
    let all =
        [(1, "0.0.0.9:7".to_owned(), 2), (2, "0.0.0.8:7".to_owned(), 1), (2, "0.0.0.9:7".to_owned(), 1)];
    assert_eq!(bench.flows(), all);
    bench.change(&[1, 2]);
    bench.datagram(0, 9, 7, 2 * S);
    assert_eq!(bench.flows()[0], (1, "0.0.0.9:7".to_owned(), 3), "no second record");
    // Another worker has only the page.
    bench.flows = FlowTable::new();
    bench.table = Table::empty();
    bench.change(&[1, 2]);
    bench.datagram(1, 8, 7, 3 * S);
    assert_eq!(bench.flows().len(), 3);
    assert_eq!(bench.flows()[1], (2, "0.0.0.8:7".to_owned(), 2));
    let first = bench.reader.rule(RuleSlot(1)).first;
    assert_eq!(u128::from(S), first.as_nanos());
    // Another rule in the same slot starts from zero.
    bench.change(&[1, 3]);
    assert_eq!(bench.flows(), [(1, "0.0.0.9:7".to_owned(), 3)]);
    assert!(bench.reader.rule(RuleSlot(1)).last.is_zero());
    bench.change(&[1]);
    bench.change(&[1, 3]);
    bench.datagram(1, 8, 7, 4 * S);
    assert_eq!(bench.flows()[1], (3, "0.0.0.8:7".to_owned(), 1));
}

#[test]
fn a_rule_whose_flow_was_evicted_gets_a_new_record() {
    let mut bench = Bench::new(&[1, 2]);
    bench.datagram(0, 1, 7, S);
    for n in 0..3_000 {
        bench.datagram(1, 1_000 + n, 7, 100 * S);
    }
    assert!(bench.flows().iter().all(|(rule, ..)| *rule == 2));
    bench.datagram(0, 1, 7, 200 * S);
    bench.datagram(0, 1, 7, 200 * S);
    let of_first: Vec<_> = bench.flows().into_iter().filter(|(rule, ..)| *rule == 1).collect();
    assert_eq!(of_first, [(1, "0.0.0.1:7".to_owned(), 2)]);
}
