//! Irrevocably dropping all privileges (capabilities(7), credentials(7)).

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::process::Status;
use crate::{Result, SysError, failed};

/// The unprivileged user and group, `nobody` and `nogroup`.
pub const NOBODY: u32 = 65_534;

/// The capability sets in /proc/PID/status.
const CAPABILITY_SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// The credentials of this process after [`drop_privileges`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its user, [`NOBODY`] where that is possible.
    pub uid: u32,
    /// What could not be dropped and why, for the log. All capabilities are dropped in any case.
    pub notes: Vec<String>,
}

/// Makes this process `nobody:nogroup` without supplementary groups, empties all five capability sets, locks the
/// secure bits so that no later `exec` as root brings any back, and sets no_new_privs. Verifies the result in
/// /proc.
///
/// In a user namespace that has no such user, and without the capabilities that it takes (CAP_SETUID, CAP_SETGID,
/// CAP_SETPCAP), the process keeps its user, and the notes say so.
///
/// For a process with one thread: the kernel keeps all of this per thread.
///
/// # Errors
/// A capability is left, or the process may gain new ones. It must not continue.
pub fn drop_privileges() -> Result<Dropped> {
    look_up_what_is_lazy();
    let mut notes = Vec::new();
    let held = rustix::thread::capabilities(None).map_err(failed("capget"))?;

    rustix::thread::clear_ambient_capability_set().map_err(failed("prctl PR_CAP_AMBIENT_CLEAR_ALL"))?;
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETPCAP;
    if held.effective.contains(needed) {
        // The first two need CAP_SETPCAP: before the capabilities go.
        drop_bounding_set()?;
        lock_secure_bits(&mut notes);
        become_nobody(&mut notes);
    } else {
        // As under the service file. No capability is held that the bounding set could pass on, and no_new_privs keeps
        // it so.
        let uid = rustix::process::getuid().as_raw();
        notes.push(format!("user {uid} stays: without CAP_SETUID, CAP_SETGID, CAP_SETPCAP it can't change"));
    }

    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(failed("capset"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("prctl PR_SET_NO_NEW_PRIVS"))?;
    // A process that changed its user must not be traced by others of that user (ptrace(2)).
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed("prctl PR_SET_DUMPABLE"))?;

    verify(&Status::read(None)?, &mut notes)?;
    Ok(Dropped { uid: rustix::process::getuid().as_raw(), notes })
}

/// Gives up every capability but CAP_BPF and CAP_NET_ADMIN, and the possibility to gain others (`no_new_privs`). The user stays.
///
/// # Errors
/// The kernel refuses. The process must not continue.
pub fn keep_only_bpf() -> Result<()> {
    rustix::thread::clear_ambient_capability_set().map_err(failed("prctl PR_CAP_AMBIENT_CLEAR_ALL"))?;
    let held = rustix::thread::capabilities(None).map_err(failed("capget"))?;
    let kept = held.permitted & (CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(failed("capset"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("prctl PR_SET_NO_NEW_PRIVS"))
}

/// Gives up CAP_BPF and CAP_NET_ADMIN, for a process that has started another one with them. Children do not get them either.
///
/// # Errors
/// The kernel refuses.
pub fn give_up_bpf() -> Result<()> {
    let gone = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    for capability in [CapabilitySet::BPF, CapabilitySet::NET_ADMIN] {
        rustix::thread::configure_capability_in_ambient_set(capability, false)
            .map_err(failed("prctl PR_CAP_AMBIENT_LOWER"))?;
    }
    let held = rustix::thread::capabilities(None).map_err(failed("capget"))?;
    let sets = CapabilitySets {
        effective: held.effective - gone,
        permitted: held.permitted - gone,
        inheritable: held.inheritable - gone,
    };
    rustix::thread::set_capabilities(None, sets).map_err(failed("capset"))
}

/// Looks up now what libraries look up once, when it is first asked for: a process that is not dumpable can't open
/// /proc/self/auxv, from which the page size comes before Linux 6.4, and a later asker would panic.
fn look_up_what_is_lazy() {
    let _ = rustix::param::page_size();
    let _ = std::hash::RandomState::new();
    let _ = crate::clock::monotonic();
}

/// Removes each capability that the kernel knows; it ends the list with EINVAL.
fn drop_bounding_set() -> Result<()> {
    const STEP: &str = "prctl PR_CAPBSET_DROP";
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(SysError::from_errno(STEP, errno)),
        }
    }
    Ok(())
}

fn lock_secure_bits(notes: &mut Vec<String>) {
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    if let Err(errno) = rustix::thread::set_capabilities_secure_bits(bits) {
        notes.push(format!("the secure bits are not locked: {errno}"));
    }
}

/// Groups first, user last: changing the user may drop the right to change the others.
fn become_nobody(notes: &mut Vec<String>) {
    if let Err(errno) = rustix::thread::set_thread_groups(&[])
        && !rustix::process::getgroups().is_ok_and(|groups| groups.is_empty())
    {
        notes.push(format!("the supplementary groups stay: {errno}"));
    }
    let gid = Gid::from_raw(NOBODY);
    if let Err(errno) = rustix::thread::set_thread_res_gid(gid, gid, gid) {
        let kept = rustix::process::getgid().as_raw();
        notes.push(format!("the group stays {kept}: {errno} (no group {NOBODY} in this user namespace)"));
    }
    let uid = Uid::from_raw(NOBODY);
    if let Err(errno) = rustix::thread::set_thread_res_uid(uid, uid, uid) {
        let kept = rustix::process::getuid().as_raw();
        notes.push(format!("the user stays {kept}: {errno} (no user {NOBODY} in this user namespace)"));
    }
}

/// Reads what is left from /proc.
fn verify(status: &Status, notes: &mut Vec<String>) -> Result<()> {
    let left: Vec<&str> = CAPABILITY_SETS
        .into_iter()
        .filter(|set| status.field(set).first().is_none_or(|word| word.bytes().any(|digit| digit != b'0')))
        .collect();
    let bounding_only = left == ["CapBnd"] && !notes.is_empty();
    if !(left.is_empty() || bounding_only) {
        let message = format!("capabilities left in {}", left.join(", "));
        return Err(SysError::new("verify dropped privileges", std::io::Error::other(message)));
    }
    if status.field("NoNewPrivs") != ["1"] {
        let message = "no_new_privs is not set";
        return Err(SysError::new("verify dropped privileges", std::io::Error::other(message)));
    }
    let threads = status.field("Threads");
    if threads != ["1"] {
        notes.push(format!("{} threads: only the calling one was verified", threads.join(" ")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cap_setuid_only_the_user_stays() {
        let (dropped, status) = on_a_thread(|| {
            let only = CapabilitySet::NET_RAW;
            let sets = CapabilitySets { effective: only, permitted: only, inheritable: only };
            rustix::thread::set_capabilities(None, sets).unwrap();
            (drop_privileges().unwrap(), Status::read(None).unwrap())
        });
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status.field(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(status.field("NoNewPrivs"), ["1"]);
        assert!(dropped.notes[0].starts_with(&format!("user {} stays", dropped.uid)), "{:?}", dropped.notes);
    }

    /// The kernel keeps credentials per thread, so a thread can give up what the test process keeps.
    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn all_capabilities_are_dropped_for_good() {
        let (dropped, status, regained) = on_a_thread(|| {
            let dropped = drop_privileges().unwrap();
            let all = CapabilitySets {
                effective: CapabilitySet::NET_RAW,
                permitted: CapabilitySet::NET_RAW,
                inheritable: CapabilitySet::empty(),
            };
            let regained = rustix::thread::set_capabilities(None, all).is_ok();
            (dropped, Status::read(None).unwrap(), regained)
        });
        for set in CAPABILITY_SETS {
            assert_eq!(status.field(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(status.field("NoNewPrivs"), ["1"]);
        assert!(!regained);
        let uid = dropped.uid.to_string();
        assert_eq!(status.field("Uid"), [uid.as_str(); 4]);
        if dropped.uid == NOBODY {
            assert_eq!(status.field("Gid"), ["65534"; 4]);
            assert!(status.field("Groups").is_empty());
        } else {
            assert!(dropped.notes.iter().any(|note| note.contains("the user stays")), "{:?}", dropped.notes);
        }
    }

    #[test]
    fn dropping_twice_works() {
        on_a_thread(|| {
            drop_privileges().unwrap();
            drop_privileges().unwrap();
        });
    }

    #[test]
    fn a_remaining_capability_is_an_error() {
        let status = on_a_thread(|| Status::read(None).unwrap());
        assert!(verify(&status, &mut Vec::new()).is_err());
    }
}
