//! *Did you mean …?*

/// Returns the known word that is nearest to `word`: at most a third of its letters are wrong, missing, added or swapped
/// with their neighbor.
pub(super) fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let word = word.to_lowercase();
    if word.chars().count() > 32 {
        return None;
    }
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_others_are_not() {
        let known = ["interface", "group", "port", "sources", "ttl"];
        for (word, expected) in [
            ("prot", Some("port")),
            ("ports", Some("port")),
            ("Group", Some("group")),
            ("source", Some("sources")),
            ("iterface", Some("interface")),
            ("tll", Some("ttl")),
            ("color", None),
            ("", None),
            (&"x".repeat(100_000), None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
    }
}
