//! JSON with two more rules: an object has each key once, and a message has a bounded number of values.
//!
//! `serde_json` alone lets the last of several equal keys win, and then two readers of one request may disagree on
//! what it says. And a value takes sixteen times the memory of the shortest text for it, so bounding the bytes of a
//! message alone does not bound the memory it takes.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads one JSON value that holds at most `max_values` values: null, booleans, numbers, strings, arrays, objects.
///
/// # Errors
/// The bytes are not JSON, hold more values, nest deeper than `serde_json` allows (128), or an object has a key twice.
pub fn parse(bytes: &[u8], max_values: usize) -> Result<Value, serde_json::Error> {
    let left = Cell::new(max_values);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { left: &left }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| D::Error::custom("the message holds too many values"))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} occurs twice in one object")));
            }
            let value = entries.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_twice_is_an_error_at_any_depth() {
        let message = |text: &str| parse(text.as_bytes(), 100).unwrap_err().to_string();
        assert!(message(r#"{"a":1,"a":1}"#).contains(r#"the key "a" occurs twice"#));
        assert!(message(r#"{"a":[{"b":{"c":1,"\u0063":2}}]}"#).contains(r#"the key "c" occurs twice"#));
        assert!(parse(br#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#, 100).is_ok());
    }

    #[test]
    fn values_are_counted() {
        for (text, values) in [("7", 1), ("[]", 1), ("[1,2]", 3), (r#"{"a":[null,{}],"b":"c"}"#, 5)] {
            assert!(parse(text.as_bytes(), values).is_ok(), "{text}");
            assert!(parse(text.as_bytes(), values - 1).unwrap_err().to_string().contains("too many values"));
        }
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        for text in ["", "{", "{}{}", "{\"a\":}", "{'a':1}", "{\"a\":\"\u{1}\"}"] {
            assert!(parse(text.as_bytes(), 100).is_err(), "{text:?}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}", 100).is_err());
        assert!(parse("[".repeat(200_000).as_bytes(), usize::MAX).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, 100);
        }

        #[test]
        fn what_it_reads_serde_json_reads_alike(text in "[\\[\\]{}\":,0-9a-z\\.-]{0,12}") {
            if let Ok(value) = parse(text.as_bytes(), 100) {
                prop_assert_eq!(serde_json::from_slice::<Value>(text.as_bytes()).unwrap(), value);
            }
        }
    }
}
