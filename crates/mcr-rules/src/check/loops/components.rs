//! Strongly connected components of a directed graph: Tarjan's algorithm without recursion, because a chain of rules may be
//! as long as the configuration.

const UNSEEN: usize = usize::MAX;

/// A search that can be run again and again on parts of one graph, at the cost of the part.
pub(super) struct Search {
    order: Vec<usize>,
    lowest: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    entered: Vec<usize>,
    found: Vec<Vec<usize>>,
}

impl Search {
    /// A search in a graph of this many nodes.
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            order: vec![UNSEEN; nodes],
            lowest: vec![UNSEEN; nodes],
            on_stack: vec![false; nodes],
            stack: Vec::new(),
            entered: Vec::new(),
            found: Vec::new(),
        }
    }

    /// The components of the nodes `within` that can be reached from `starts`, each with at least two nodes.
    pub(super) fn run(
        &mut self,
        edges: &[Vec<usize>],
        within: &dyn Fn(usize) -> bool,
        starts: impl Iterator<Item = usize>,
    ) -> Vec<Vec<usize>> {
        for start in starts {
            if self.order[start] == UNSEEN && within(start) {
                self.visit(edges, within, start);
            }
        }
        for node in self.entered.drain(..) {
            self.order[node] = UNSEEN;
        }
        std::mem::take(&mut self.found)
    }

    fn visit(&mut self, edges: &[Vec<usize>], within: &dyn Fn(usize) -> bool, start: usize) {
        // The nodes on the way, each with the number of its edges that are done.
        let mut way = vec![(start, 0)];
        self.enter(start);
        while let Some((node, done)) = way.last_mut() {
            let node = *node;
            if let Some(next) = edges[node].get(*done).copied() {
                *done += 1;
                if !within(next) {
                    continue;
                }
                if self.order[next] == UNSEEN {
                    self.enter(next);
                    way.push((next, 0));
                } else if self.on_stack[next] {
                    self.lowest[node] = self.lowest[node].min(self.order[next]);
                }
            } else {
                way.pop();
                if let Some((parent, _)) = way.last() {
                    self.lowest[*parent] = self.lowest[*parent].min(self.lowest[node]);
                }
                if self.lowest[node] == self.order[node] {
                    self.leave(node);
                }
            }
        }
    }

    fn enter(&mut self, node: usize) {
        let number = self.entered.len();
        self.entered.push(node);
        self.order[node] = number;
        self.lowest[node] = number;
        self.stack.push(node);
        self.on_stack[node] = true;
    }

    /// `root` is the first node of its component: what lies above it on the stack is the rest.
    fn leave(&mut self, root: usize) {
        let start = self.stack.iter().rposition(|node| *node == root).unwrap_or(0);
        let component = self.stack.split_off(start);
        for node in &component {
            self.on_stack[*node] = false;
        }
        if component.len() > 1 {
            self.found.push(component);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components(edges: &[Vec<usize>], within: &dyn Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let mut found = Search::new(edges.len()).run(edges, within, 0..edges.len());
        found.iter_mut().for_each(|component| component.sort_unstable());
        found.sort();
        found
    }

    #[test]
    fn two_rounds_with_a_bridge_between_them() {
        let edges = [vec![1], vec![2], vec![0, 3], vec![4], vec![3, 5], vec![]];
        assert_eq!(components(&edges, &|_| true), [vec![0, 1, 2], vec![3, 4]]);
        assert_eq!(components(&edges, &|node| node != 1), [vec![3, 4]]);
    }

    #[test]
    fn a_search_starts_anew_each_time() {
        let edges = [vec![1], vec![0, 2], vec![1]];
        let mut search = Search::new(3);
        for (excluded, expected) in [(9, vec![0, 1, 2]), (2, vec![0, 1]), (0, vec![1, 2]), (9, vec![0, 1, 2])]
        {
            let mut found = search.run(&edges, &|node| node != excluded, 0..3).concat();
            found.sort_unstable();
            assert_eq!(found, expected, "without {excluded}");
        }
    }

    #[test]
    fn a_chain_of_a_million_needs_no_stack_and_a_ring_is_one() {
        let mut edges: Vec<Vec<usize>> = (1..=1_000_000).map(|next| vec![next]).collect();
        edges.push(vec![]);
        assert!(components(&edges, &|_| true).is_empty());
        edges[1_000_000].push(0);
        assert_eq!(components(&edges, &|_| true)[0].len(), 1_000_001);
    }
}
