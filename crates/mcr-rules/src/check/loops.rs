//! Loops of rules; [`super::check`] defines what is refused.
//!
//! The rules and the datagrams they send form a graph with two kinds of nodes, so that many rules on one endpoint cost the
//! sum and not the product of outputs and inputs:
//!
//! ```text
//! rule ─output─▶ arrival (interface, group, port, source) ─admitted by─▶ rule
//! ```
//!
//! Each leg of a merged rule is a rule here.
//!
//! Loops are its strongly connected components (Tarjan) of two rules or more, searched on loopback by itself and on each
//! interface together with loopback.

mod components;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use super::Report;
use crate::draft::{Endpoint, InputDraft, RuleDraft};
use crate::name::InterfaceName;
use crate::origin::SourceAddress;
use crate::path::Path;
use components::Search;

/// What is known of the source of a datagram that an output sends: the address, or nothing.
type SentFrom = Option<IpAddr>;

/// Nodes below the number of legs are the rules, one for each leg, the others arrivals.
struct Graph<'a> {
    rules: &'a [RuleDraft],
    /// The index of the rule of each leg.
    legs: Vec<usize>,
    /// The interface of each node: that of the rule's input, or of the arrival.
    interfaces: Vec<Option<&'a InterfaceName>>,
    /// The edges of each node. A rule's edges are in the order of its outputs.
    edges: Vec<Vec<usize>>,
    /// For each rule the output behind each of its edges.
    outputs: Vec<Vec<usize>>,
}

pub(super) fn check_loops(rules: &[RuleDraft], report: &mut Report<'_>) {
    let graph = Graph::of(rules);
    let mut search = Search::new(graph.edges.len());
    // What is in no loop of the whole graph is in no loop of a part: usually this is everything.
    let candidates = search.run(&graph.edges, &|_| true, 0..graph.edges.len());
    for candidate in candidates.into_iter().filter(|component| graph.is_loop(component)) {
        let mut interfaces: BTreeMap<&InterfaceName, Vec<usize>> = BTreeMap::new();
        for node in candidate {
            if let Some(interface) = graph.interfaces[node] {
                interfaces.entry(interface).or_default().push(node);
            }
        }
        let loopback: BTreeSet<usize> = interfaces
            .iter()
            .filter(|(name, _)| name.is_loopback())
            .flat_map(|(_, nodes)| nodes.clone())
            .collect();
        for (interface, nodes) in &interfaces {
            let own: BTreeSet<usize> = nodes.iter().copied().collect();
            let within = |node: usize| own.contains(&node) || loopback.contains(&node);
            for component in search.run(&graph.edges, &within, nodes.iter().copied()) {
                if let Some(start) =
                    component.iter().copied().filter(|n| *n < graph.legs.len() && own.contains(n)).min()
                    && graph.is_loop(&component)
                {
                    graph.report_loop(interface, start, &component, report);
                }
            }
        }
    }
}

impl<'a> Graph<'a> {
    fn of(rules: &'a [RuleDraft]) -> Self {
        let inputs: Vec<(usize, &InputDraft)> = (0..)
            .zip(rules)
            .flat_map(|(index, rule)| rule.inputs().map(move |input| (index, input)))
            .collect();
        let mut graph = Self {
            rules,
            legs: inputs.iter().map(|(rule, _)| *rule).collect(),
            interfaces: inputs.iter().map(|(_, input)| input.interface.as_ref()).collect(),
            edges: vec![Vec::new(); inputs.len()],
            outputs: vec![Vec::new(); inputs.len()],
        };
        let listeners = Listeners::of(&inputs, rules);
        let mut arrivals: HashMap<(Endpoint<'a>, SentFrom), usize> = HashMap::new();
        for (index, (rule, _)) in inputs.iter().enumerate() {
            for (position, output) in rules[*rule].outputs() {
                let Some(endpoint) = output.endpoint() else { continue };
                // An option that can't be read is reported as such. If it is the source, a guess could only mislead.
                if !output.options.complete {
                    continue;
                }
                // What keeps the arriving address may be from anywhere, as what is sent from an address of the interface.
                let sent_from = output.options.read.source.and_then(SourceAddress::fixed);
                let arrival = *arrivals.entry((endpoint, sent_from)).or_insert_with(|| {
                    graph.interfaces.push(Some(endpoint.0));
                    graph.edges.push(listeners.that_may_admit(endpoint, sent_from));
                    graph.edges.len() - 1
                });
                graph.edges[index].push(arrival);
                graph.outputs[index].push(position);
            }
        }
        graph
    }

    /// A rule that feeds itself alone has an output that equals its input, which has its own message.
    fn is_loop(&self, component: &[usize]) -> bool {
        let mut rules = component.iter().filter_map(|node| self.legs.get(*node));
        let first = rules.next();
        rules.any(|rule| Some(rule) != first)
    }

    fn report_loop(
        &self,
        interface: &InterfaceName,
        start: usize,
        component: &[usize],
        report: &mut Report<'_>,
    ) {
        let steps = self.shortest_loop(start, component);
        // The error is reported at the last of these rules in the file, which is usually the one just added.
        let Some((last, output)) = steps.iter().map(|(leg, output)| (self.legs[*leg], *output)).max() else {
            return;
        };
        let named = |leg: &usize| {
            let index = self.legs[*leg];
            match &self.rules[index].name {
                Some(name) => format!("rules[{index}] ({name})"),
                None => format!("rules[{index}]"),
            }
        };
        let mut round: Vec<usize> = steps.iter().map(|(rule, _)| *rule).collect();
        round.push(start);
        let round = round.iter().map(named).collect::<Vec<_>>().join(" → ");
        let through_loopback =
            |(rule, _): &(usize, usize)| self.interfaces[*rule].is_some_and(InterfaceName::is_loopback);
        let (and_lo, why) = if interface.is_loopback() {
            ("", "what is sent on loopback is received again, without end")
        } else if steps.iter().any(through_loopback) {
            (
                " and lo",
                "what is sent on loopback is received again, so every datagram would be sent back to its interface",
            )
        } else {
            ("", "relay between two interfaces, or exclude the outputs' `source` by the inputs' `sources`")
        };
        let rules = Path::ROOT.key("rules");
        let rule = rules.index(last);
        let outputs = rule.key("outputs");
        let message = format!("these rules form a loop through {interface}{and_lo}: {round}");
        report(&outputs.index(output), message, Some(why));
    }

    /// The shortest way from a rule over at least one other back to itself, as (rule, output).
    fn shortest_loop(&self, start: usize, component: &[usize]) -> Vec<(usize, usize)> {
        let within: BTreeSet<usize> = component.iter().copied().collect();
        let mut reached_by: HashMap<usize, (usize, usize)> = HashMap::new();
        let mut expanded: BTreeSet<usize> = BTreeSet::new();
        let mut queue = VecDeque::from([start]);
        while let Some(rule) = queue.pop_front() {
            for (arrival, output) in self.edges[rule].iter().zip(&self.outputs[rule]) {
                if !within.contains(arrival) {
                    continue;
                }
                if rule != start && self.edges[*arrival].contains(&start) {
                    let mut steps = vec![(rule, *output)];
                    while let Some(step) = reached_by.get(&steps[steps.len() - 1].0) {
                        steps.push(*step);
                    }
                    steps.reverse();
                    return steps;
                }
                if !expanded.insert(*arrival) {
                    continue;
                }
                for next in &self.edges[*arrival] {
                    if *next != start && within.contains(next) && !reached_by.contains_key(next) {
                        reached_by.insert(*next, (rule, *output));
                        queue.push_back(*next);
                    }
                }
            }
        }
        Vec::new()
    }
}

/// The rules that listen on an endpoint.
#[derive(Default)]
struct Listeners<'a> {
    all: HashMap<Endpoint<'a>, Vec<usize>>,
    to_any_source: HashMap<Endpoint<'a>, Vec<usize>>,
    to_source: HashMap<(Endpoint<'a>, IpAddr), Vec<usize>>,
}

impl<'a> Listeners<'a> {
    fn of(inputs: &[(usize, &'a InputDraft)], rules: &[RuleDraft]) -> Self {
        let mut listeners = Self::default();
        // Of several rules with one input, which is an error of its own, one represents all.
        let mut seen = BTreeSet::new();
        for (index, (rule, draft)) in inputs.iter().enumerate() {
            let (Some(endpoint), Some(input)) = (draft.endpoint(), draft.whole()) else { continue };
            if rules[*rule].merge.is_none() && !seen.insert(input.id()) {
                continue;
            }
            listeners.all.entry(endpoint).or_default().push(index);
            if input.sources.is_empty() {
                listeners.to_any_source.entry(endpoint).or_default().push(index);
            }
            for source in input.sources {
                listeners.to_source.entry((endpoint, source)).or_default().push(index);
            }
        }
        listeners
    }

    fn that_may_admit(&self, endpoint: Endpoint<'_>, sent_from: SentFrom) -> Vec<usize> {
        let found = |rules: Option<&Vec<usize>>| rules.cloned().unwrap_or_default();
        match sent_from {
            None => found(self.all.get(&endpoint)),
            Some(source) => {
                let mut rules = found(self.to_any_source.get(&endpoint));
                rules.extend(found(self.to_source.get(&(endpoint, source))));
                rules
            }
        }
    }
}
