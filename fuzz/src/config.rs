//! Configuration files.

use mcr_rules::change::diff;
use mcr_rules::file::{MAX_ERRORS, has_comments, parse, parse_rule, to_json5};

/// Asserts the property.
///
/// # Panics
/// It does not hold.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(json) = serde_json::from_str(text)
        && let Ok(rule) = parse_rule(&json)
    {
        let written = serde_json::to_value(&rule).expect("a rule is JSON");
        assert_eq!(parse_rule(&written).as_ref(), Ok(&rule));
    }
    match parse(text) {
        Ok(config) => {
            let written = to_json5(&config);
            let read = parse(&written);
            assert_eq!(read.as_ref(), Ok(&config), "{written}");
            assert!(diff(&config, &config).is_empty() && !has_comments(&written));
            assert!(mcr_rules::check(&config).is_empty());
            let json = serde_json::to_string(&config).expect("a config is JSON");
            assert_eq!(parse(&json).as_ref(), Ok(&config), "{json}");
        }
        Err(errors) => {
            assert!(!errors.is_empty() && errors.len() <= MAX_ERRORS + 1);
            // JSON5 has more ends of line than `lines` knows; none of them is more than one character.
            let (characters, mut last) = (text.chars().count() + 1, (0, 0));
            for location in errors.iter().filter_map(|error| error.location) {
                let place = (location.line, location.column);
                assert!(place >= last, "{place:?} stands behind {last:?}");
                assert!(place.0 as usize <= characters && place.1 as usize <= characters, "{place:?}");
                last = place;
            }
        }
    }
}
