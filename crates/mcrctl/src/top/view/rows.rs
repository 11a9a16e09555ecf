//! How the first page divides its lines.

/// Lines of each part, title and heading included; 0 if it is not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heights {
    pub rules: u16,
    pub workers: u16,
    pub reasons: u16,
    pub events: u16,
}

/// Minimum height of a part that is shown.
const LEAST: u16 = 4;

/// Divides the lines between rules, workers and reasons, which want the given numbers, and the events, which get the
/// rest. Rules have priority: other parts leave them half of the page if they need it.
pub(super) fn divide(lines: u16, wants: [usize; 3]) -> Heights {
    let [rules, workers, reasons] = wants.map(|want| u16::try_from(want).unwrap_or(u16::MAX));
    let kept = rules.min(lines / 2).max(LEAST);
    let mut heights = Heights::default();
    let mut left = lines.saturating_sub(kept);
    let mut give = |want: u16| {
        let given = want.min(LEAST);
        let fits = left >= given;
        left -= if fits { given } else { 0 };
        if fits { given } else { 0 }
    };
    heights.events = give(LEAST);
    heights.workers = give(workers);
    heights.reasons = give(reasons);
    let grow = |height: &mut u16, want: u16, left: &mut u16| {
        let more = if *height > 0 { want.saturating_sub(*height).min(*left) } else { 0 };
        *height += more;
        *left -= more;
    };
    heights.rules = kept.min(lines);
    grow(&mut heights.rules, rules, &mut left);
    grow(&mut heights.workers, workers, &mut left);
    grow(&mut heights.reasons, reasons, &mut left);
    let last = if heights.events > 0 { &mut heights.events } else { &mut heights.rules };
    *last += left;
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_given_once_and_rules_come_first() {
        for lines in 4..80 {
            for rules in [3, 4, 6, 20, 10_003] {
                for workers in [2, 3, 10] {
                    let heights = divide(lines, [rules, workers, 3]);
                    let all = [heights.rules, heights.workers, heights.reasons, heights.events];
                    assert_eq!(all.iter().sum::<u16>(), lines, "{lines} {rules} {workers} {heights:?}");
                    assert!(usize::from(heights.rules) >= rules.min(usize::from(lines / 2)), "{heights:?}");
                }
            }
        }
    }

    #[test]
    fn a_small_screen_of_many_rules_still_has_events() {
        let heights = divide(20, [103, 3, 3]);
        assert_eq!(heights, Heights { rules: 10, workers: 3, reasons: 3, events: 4 });
        assert_eq!(divide(6, [103, 3, 3]), Heights { rules: 6, ..Heights::default() });
    }
}
