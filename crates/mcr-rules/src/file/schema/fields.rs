//! The members of an object, with unknown, duplicate and missing keys reported.

use std::collections::BTreeSet;

use super::super::error::Findings;
use super::super::suggestion::nearest;
use super::super::tree::{Member, Node, Value};
use super::values::wrong_kind;
use crate::path::{Path, quoted};

/// Keys that were renamed: the former name, which is still read, and the name.
const FORMER_KEYS: [(&str, &str); 1] = [("health", "stream")];

fn former(key: &str) -> Option<&'static str> {
    FORMER_KEYS.iter().find(|(_, name)| *name == key).map(|(former, _)| *former)
}

/// An object whose keys were checked.
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
        let renamed = |key: &str| known.iter().copied().find(|name| former(name) == Some(key));
        for member in fields.members.iter().filter(|member| !known.contains(&member.key.as_str())) {
            if let Some(name) = renamed(&member.key) {
                if fields.members.iter().any(|other| other.key == name) {
                    let message = format!("the former name of `{name}`, which is given as well");
                    let hint = format!("remove `{}`", member.key);
                    findings.add(member.key_place, &path.key(&member.key), message, Some(hint));
                }
                continue;
            }
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
            return wrong_kind(node, "an object", path, findings);
        };
        let mut seen = BTreeSet::new();
        for member in members {
            if !seen.insert(&member.key) {
                let hint = "remove one of them".to_owned();
                findings.add(member.key_place, &path.key(&member.key), "duplicate key", Some(hint));
            }
        }
        Some(Self { node, members })
    }

    /// The members in the order of the text, including duplicates.
    pub(super) fn members(&self) -> &'n [Member] {
        self.members
    }

    /// The member of an optional key, or of its former name; of duplicates the first.
    pub(super) fn member(&self, key: &str) -> Option<&'n Member> {
        let find = |key: &str| self.members.iter().find(|member| member.key == key);
        find(key).or_else(|| find(former(key)?))
    }

    /// The value of an optional key.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.member(key).map(|member| &member.node)
    }

    /// The value of a required key.
    pub(super) fn require(&self, key: &str, path: &Path<'_>, findings: &mut Findings) -> Option<&'n Node> {
        let found = self.get(key);
        if found.is_none() {
            findings.add(self.node.place, &path.key(key), format!("the key `{key}` is missing"), None);
        }
        found
    }
}
