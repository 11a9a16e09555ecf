//! Hints for altnames (ip-link(8)) that are too long for the name of an interface, in a config with errors.

use mcr_rules::file::ConfigError;
use mcr_sys::network::NetworkMonitor;

/// Names the interfaces that are meant, if they are there. Without such errors it asks the kernel nothing.
pub(crate) fn resolve(errors: &mut [ConfigError]) {
    if errors.iter().all(|error| error.long_name.is_none()) {
        return;
    }
    // If the kernel does not say, the general hint stays.
    let Ok((links, _)) = NetworkMonitor::open().and_then(|mut monitor| monitor.dump()) else { return };
    for error in errors {
        error.resolve_altname(|name| {
            let link = links.iter().find(|link| link.altnames.iter().any(|altname| altname == name));
            link.map(|link| link.name.clone())
        });
    }
}
