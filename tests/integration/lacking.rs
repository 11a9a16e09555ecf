//! What a kernel or a machine may lack. A test that needs it says so by name and ends.

use mcr_testnet::Host;

/// Whether this process may use two cores.
pub(crate) fn has_two_cores() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        println!("skipped: it needs two cores");
    }
    cores >= 2
}

/// Whether a host's kernel has the firewall's tables of this family (nft(8)).
pub(crate) fn has_firewall(host: &Host, family: &str) -> bool {
    let output = host.output("nft", &["add", "table", family, "probe"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if error.contains("Operation not supported") {
        println!("skipped: this kernel has no nftables of family {family}");
        return false;
    }
    assert!(output.status.success(), "nft: {error}");
    assert!(host.output("nft", &["delete", "table", family, "probe"]).status.success());
    true
}

/// Whether a host's kernel has this variable in the host's network namespace, by its path below /proc/sys.
pub(crate) fn has_sysctl(host: &Host, path: &str) -> bool {
    let has = host.run(|| std::fs::exists(format!("/proc/sys/{path}")).unwrap_or_default());
    if !has {
        println!("skipped: this kernel's network namespaces have no {path}");
    }
    has
}

/// Whether the kernel has Landlock, by using it in a thread.
pub(crate) fn has_landlock() -> bool {
    let layer = std::thread::spawn(mcr_sys::sandbox::landlock).join().expect("a thread");
    if let Err(error) = &layer {
        println!("skipped: no Landlock: {error}");
    }
    layer.is_ok()
}

/// Whether the kernel gives another name to an interface that is up.
pub(crate) fn renames_while_up(host: &Host) -> bool {
    let ip = |line: &str| host.output("ip", &line.split_whitespace().collect::<Vec<_>>());
    assert!(ip("link add probe0 up type veth peer name probe1").status.success());
    let renamed = ip("link set probe0 name probe2");
    assert!(ip("link delete probe1").status.success());
    let error = String::from_utf8_lossy(&renamed.stderr).into_owned();
    if error.contains("Device or resource busy") {
        println!("skipped: this kernel renames no interface that is up (Linux before 6.2)");
        return false;
    }
    assert!(renamed.status.success(), "{error}");
    true
}
