//! Rights, derived from the peer credentials (`SO_PEERCRED`).

use mcr_control::method::Right;
use mcr_sys::SysError;
use mcr_sys::credentials::Peer;
use mcr_sys::group::group_id;

/// Members of this group may change the configuration.
pub(crate) const CHANGE_GROUP: &str = "mcr";

/// Who has a right, for refusals.
pub(super) const fn hint(needed: Right) -> &'static str {
    match needed {
        Right::Nothing | Right::Read => {
            "run it as root, as a member of group \"mcr\", or of the group given to mcrd with --observers"
        }
        Right::Change => "run it as root or as a member of group \"mcr\"",
        Right::Own => "run it as root or as mcrd's user; `mcrctl show > FILE` writes a file of your own",
    }
}

/// Users and groups that have rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// The daemon's own user.
    pub(crate) own_uid: u32,
    /// The group that may change; `None` if the host has no group `mcr`.
    pub(crate) change_gid: Option<u32>,
    /// The group that may read.
    pub(crate) observers_gid: Option<u32>,
}

/// Why rights could not be determined.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The group database can't be read.
    #[error(transparent)]
    Groups(#[from] SysError),
    /// The group given with `--observers` does not exist.
    #[error("there is no group {0:?} for --observers")]
    NoSuchGroup(String),
}

impl Access {
    /// Looks the groups up: `mcr`, and the group of `--observers`.
    pub(crate) fn look_up(own_uid: u32, observers: Option<&str>) -> Result<Self, AccessError> {
        let observers_gid = match observers {
            None => None,
            Some(name) => Some(group_id(name)?.ok_or_else(|| AccessError::NoSuchGroup(name.to_owned()))?),
        };
        Ok(Self { own_uid, change_gid: group_id(CHANGE_GROUP)?, observers_gid })
    }

    /// Returns the right of a client.
    pub(crate) fn right(&self, peer: &Peer) -> Right {
        let in_group =
            |gid: Option<u32>| gid.is_some_and(|gid| peer.gid == gid || peer.groups.contains(&gid));
        if peer.uid == 0 || peer.uid == self.own_uid {
            Right::Own
        } else if in_group(self.change_gid) {
            Right::Change
        } else if in_group(self.observers_gid) {
            Right::Read
        } else {
            Right::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_follow_user_and_groups() {
        let access = Access { own_uid: 500, change_gid: Some(70), observers_gid: Some(80) };
        let right =
            |uid, gid, groups: &[u32]| access.right(&Peer { uid, gid, pid: 1, groups: groups.to_vec() });
        assert_eq!(right(0, 0, &[]), Right::Own);
        assert_eq!(right(500, 500, &[]), Right::Own);
        assert_eq!(right(1000, 70, &[]), Right::Change);
        assert_eq!(right(1000, 1000, &[1, 70]), Right::Change);
        assert_eq!(right(1000, 1000, &[80, 70]), Right::Change);
        assert_eq!(right(1000, 80, &[]), Right::Read);
        assert_eq!(right(1000, 1000, &[80]), Right::Read);
        assert_eq!(right(1000, 1000, &[1]), Right::Nothing);
        assert_eq!(right(1000, 500, &[500]), Right::Nothing);
    }

    #[test]
    fn without_groups_only_root_and_the_daemons_user_have_rights() {
        let access = Access { own_uid: 0, change_gid: None, observers_gid: None };
        assert_eq!(access.right(&Peer { uid: 1000, gid: 0, pid: 1, groups: vec![0] }), Right::Nothing);
    }

    #[test]
    fn an_unknown_observers_group_is_named() {
        let error = Access::look_up(0, Some("no-such-group-here")).unwrap_err();
        assert_eq!(error.to_string(), "there is no group \"no-such-group-here\" for --observers");
    }
}
