//! The right to make network namespaces, with or without root.

use anyhow::{Context, Result};

/// Sees to it that this process and its children may make network namespaces: if they may not, it goes on as root of a
/// user namespace. Call it while this process has one thread.
pub(crate) fn acquire() -> Result<()> {
    if mcr_testnet::may_create_namespaces() {
        return Ok(());
    }
    eprintln!("not root: going on in a user namespace");
    mcr_testnet::enter_user_namespace().context(
        "network namespaces need root or a user namespace, and this system gives neither.\n\
         hint: run as root, or allow user namespaces (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
    )
}
