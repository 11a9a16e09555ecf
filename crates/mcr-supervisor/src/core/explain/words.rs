//! Formatting of numbers for display.

use std::time::Duration;

/// With separators: 12,345.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The remedy if the kernel refused something because of a limit.
pub(super) fn about_limit(reason: &str) -> Option<&'static str> {
    // As errors are formatted; asm-generic/errno.h.
    let is = |errno| reason.contains(&std::io::Error::from_raw_os_error(errno).to_string());
    if is(23) || is(24) {
        Some("out of file descriptors: raise LimitNOFILE= of the service")
    } else if is(12) || is(105) {
        Some(
            "the kernel limits memory for socket options by sysctl net.core.optmem_max; and net.ipv4.igmp_max_memberships must not be 0",
        )
    } else {
        None
    }
}

/// "1 datagram", "2 datagrams".
pub(super) fn datagrams(n: u64) -> String {
    counted(n, "datagram")
}

/// "1 frame", "2 frames".
pub(super) fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A rate per second; small ones with a decimal.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a displayed rate"
)]
pub(super) fn rate(n: u64, seconds: f64) -> String {
    let rate = if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { count(rate.round() as u64) }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn bit_rate(bytes: u64, seconds: f64) -> String {
    let bps = if seconds > 0.0 { bytes as f64 * 8.0 / seconds } else { 0.0 };
    match bps {
        _ if bps >= 1e9 => format!("{:.2} Gbit/s", bps / 1e9),
        _ if bps >= 1e6 => format!("{:.2} Mbit/s", bps / 1e6),
        _ if bps >= 1e3 => format!("{:.1} kbit/s", bps / 1e3),
        _ => format!("{bps:.0} bit/s"),
    }
}

/// "2.0 s", "45 s", "12 min".
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds < 0.1 => format!("{:.0} ms", seconds * 1000.0),
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        _ if seconds < 600.0 => format!("{seconds:.0} s"),
        _ => format!("{:.0} min", seconds / 60.0),
    }
}

/// "8 MiB".
#[expect(clippy::cast_precision_loss, reason = "a displayed size")]
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 20 => format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)),
        _ if bytes >= 1 << 10 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        _ => format!("{bytes} bytes"),
    }
}

/// "a, b and c", or the first few "and N more".
pub(super) fn list(items: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 4;
    let all: Vec<String> = items.into_iter().collect();
    let more = all.len().saturating_sub(SHOWN);
    match all.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] if more == 0 => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {more} more", all.get(..SHOWN).unwrap_or_default().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 2].map(datagrams), ["1 datagram", "2 datagrams"]);
        assert_eq!(
            [(3, 2.0), (100, 2.0), (0, 2.0), (9, 0.0)].map(|(n, s)| rate(n, s)),
            ["1.5", "50", "0", "0"]
        );
        assert_eq!(bit_rate(1_000_000, 2.0), "4.00 Mbit/s");
        assert_eq!(
            [50, 2_000, 45_000, 720_000].map(|ms| time(Duration::from_millis(ms))),
            ["50 ms", "2.0 s", "45 s", "12 min"]
        );
        assert_eq!(size(8 << 20), "8 MiB");
        let words = |n: usize| list((0..n).map(|n| n.to_string()));
        assert_eq!([0, 1, 2, 3, 6].map(words), ["", "0", "0 and 1", "0, 1 and 2", "0, 1, 2, 3 and 2 more"]);
    }
}
