//! The members of an object, with unknown, doubled and missing keys reported.

use std::collections::BTreeSet;

use super::super::error::Findings;
use super::super::suggestion::nearest;
use super::super::tree::{Member, Node, Value};
use super::values::wrong_kind;
use crate::path::{Path, quoted};

/// An object whose keys were looked at.
pub(super) struct Fields<'n> {
    node: &'n Node,
    members: &'n [Member],
}

impl<'n> Fields<'n> {
    /// An object with these keys and no others. `None` if it is no object.
    pub(super) fn of(
        node: &'n Node,
        path: &Path<'_>,
        known: &[&str],
        findings: &mut Findings,
    ) -> Option<Self> {
        let fields = Self::of_any_key(node, path, findings)?;
        for member in fields.members.iter().filter(|member| !known.contains(&member.key.as_str())) {
            let hint = match nearest(&member.key, known) {
                Some(key) => format!("did you mean `{key}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            let message = format!("unknown key {}", quoted(&member.key));
            findings.add(member.key_place, &path.key(&member.key), message, Some(hint));
        }
        Some(fields)
    }

    /// An object with any keys. `None` if it is no object.
    pub(super) fn of_any_key(node: &'n Node, path: &Path<'_>, findings: &mut Findings) -> Option<Self> {
        let Value::Object(members) = &node.value else {
            wrong_kind(node, "an object", path, findings);
            return None;
        };
        let mut seen = BTreeSet::new();
        for member in members {
            if !seen.insert(&member.key) {
                let hint = "remove one of them".to_owned();
                findings.add(member.key_place, &path.key(&member.key), "the key is given twice", Some(hint));
            }
        }
        Some(Self { node, members })
    }

    /// The members in the order of the text, doubled ones too.
    pub(super) fn members(&self) -> &'n [Member] {
        self.members
    }

    /// The value of an optional key; of doubled ones the first.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.members.iter().find(|member| member.key == key).map(|member| &member.node)
    }

    /// The value of a key that must be there.
    pub(super) fn require(&self, key: &str, path: &Path<'_>, findings: &mut Findings) -> Option<&'n Node> {
        let found = self.get(key);
        if found.is_none() {
            findings.add(self.node.place, &path.key(key), format!("the key `{key}` is missing"), None);
        }
        found
    }
}
