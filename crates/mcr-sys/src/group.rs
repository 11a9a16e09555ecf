//! Groups of users by name, from `/etc/group` (group(5)).
//!
//! The file is read instead of calling getgrnam(3): name service modules run foreign code and may wait for a network,
//! and the daemon is privileged. A group that only a directory server has must be added to the file.

use std::io::{self, ErrorKind};

use crate::{Result, SysError};

const FILE: &str = "/etc/group";

/// The number of the group with this name; `None` if there is no such group.
///
/// # Errors
/// `/etc/group` exists and can't be read.
pub fn group_id(name: &str) -> Result<Option<u32>> {
    match std::fs::read(FILE) {
        Ok(text) => Ok(find(&String::from_utf8_lossy(&text), name)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SysError::new("read /etc/group", io::Error::new(error.kind(), error))),
    }
}

/// `name:password:gid:members`, one group a line; the first of several with the same name counts.
fn find(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if name.is_empty() || fields.next() != Some(name) {
            return None;
        }
        fields.nth(1)?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_by_exact_name() {
        const TEXT: &str = "root:x:0:\n# comment:x:9:\nmcr:x:987:alice,bob\nmcr-x:x:5:\nbroken\nhalf:x\nword:x:no:\nmcr:x:1:\n";
        for (name, expected) in [
            ("root", Some(0)),
            ("mcr", Some(987)),
            ("mcr-x", Some(5)),
            ("mc", None),
            ("", None),
            ("broken", None),
            ("half", None),
            ("word", None),
            ("MCR", None),
        ] {
            assert_eq!(find(TEXT, name), expected, "{name}");
        }
    }

    #[test]
    fn reads_the_real_file() {
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("no-such-group-here").unwrap(), None);
    }
}
