//! Permission to create network namespaces, with or without root.

use anyhow::{Context, Result};

/// Enters a user namespace as root unless this process may create network namespaces. Must be called while this process has
/// one thread.
pub(crate) fn acquire() -> Result<()> {
    if mcr_testnet::may_create_namespaces() {
        return Ok(());
    }
    eprintln!("not root: entering a user namespace");
    mcr_testnet::enter_user_namespace().context(
        "network namespaces require root or a user namespace, and neither is permitted.\n\
         hint: run as root, or allow user namespaces (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
    )
}
