//! A parsed text: any JSON value, in which each key and value knows its place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::error::Place;
use crate::path::{Path, Step};

/// A value and where it begins.
#[derive(Debug, PartialEq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// Any JSON value. Objects keep their order and duplicate keys.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    /// With a fraction or an exponent, or beyond 64 bits.
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Object(Vec<Member>),
}

/// One member of an object.
#[derive(Debug, PartialEq)]
pub(super) struct Member {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) node: Node,
}

impl Node {
    /// Sets the place of every key and value, from a list in the order of the text.
    pub(super) fn place(&mut self, starts: &mut impl Iterator<Item = u32>) {
        self.place = starts.next();
        match &mut self.value {
            Value::List(elements) => elements.iter_mut().for_each(|element| element.place(starts)),
            Value::Object(members) => {
                for member in members {
                    member.key_place = starts.next();
                    member.node.place(starts);
                }
            }
            _ => {}
        }
    }

    /// The place of what a path names, or of the nearest enclosing value that exists.
    pub(super) fn place_of(&self, path: &Path<'_>) -> Place {
        self.nearest(path).0.place
    }

    /// The node that a path names and `true`, or the nearest one around it.
    fn nearest(&self, path: &Path<'_>) -> (&Node, bool) {
        let Some((parent, step)) = path.split() else { return (self, true) };
        let (around, exact) = self.nearest(parent);
        let found = match (&around.value, step) {
            (Value::List(elements), Step::Index(index)) => elements.get(index),
            (Value::Object(members), Step::Key(key)) => {
                members.iter().find(|m| m.key == key).map(|m| &m.node)
            }
            _ => None,
        };
        match found {
            Some(node) if exact => (node, true),
            _ => (around, false),
        }
    }
}

/// Whether arrays and objects nest at most `depth` deep.
pub(super) fn nests_within(json: &serde_json::Value, depth: usize) -> bool {
    let within = |inner| nests_within(inner, depth - 1);
    match json {
        serde_json::Value::Array(elements) => depth > 0 && elements.iter().all(within),
        serde_json::Value::Object(members) => depth > 0 && members.values().all(within),
        _ => true,
    }
}

impl Value {
    /// The kind, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(ValueVisitor)?;
        Ok(Self { place: None, value })
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // It is out of range for any number of a configuration.
        Ok(i64::try_from(value).map_or(Value::Float(1.0e19), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element()? {
            elements.push(element);
        }
        Ok(Value::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, node)) = access.next_entry()? {
            members.push(Member { key, key_place: None, node });
        }
        Ok(Value::Object(members))
    }
}
