//! Numbers and times in few characters.

/// A number in at most five characters: `0`, `7.3`, `999`, `1.23k`, `12.3M`.
pub(crate) fn short(value: f64) -> String {
    let (value, prefix) = scaled(value);
    format!("{value}{prefix}")
}

/// A number with its unit: `12.3 kbit/s`, `999 bit/s`.
pub(crate) fn with_unit(value: f64, unit: &str) -> String {
    let (value, prefix) = scaled(value);
    format!("{value} {prefix}{unit}")
}

/// Three digits, and the SI prefix that they count.
fn scaled(value: f64) -> (String, &'static str) {
    // What would be rounded to 1000 takes the next prefix.
    const NEXT: f64 = 999.5;
    let mut value = if value.is_finite() { value.max(0.0) } else { 0.0 };
    let mut prefix = "";
    for next in ["k", "M", "G", "T", "P", "E"] {
        if value < NEXT {
            break;
        }
        value /= 1e3;
        prefix = next;
    }
    let digits = match value {
        _ if value < 0.05 => "0".to_owned(),
        _ if prefix.is_empty() && value < 9.95 => format!("{value:.1}"),
        _ if prefix.is_empty() || value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    (digits, prefix)
}

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 rule`, `2 rules`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A time span in at most six characters: `45s`, `12m05s`, `3h07m`, `5d02h`.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m{:02}s", seconds % 60),
        3_600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// The time of day, UTC, from seconds since 1970.
pub(crate) fn time_of_day(unix_seconds: u64) -> String {
    let day = unix_seconds % 86_400;
    format!("{:02}:{:02}:{:02}", day / 3_600, day / 60 % 60, day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_at_most_five_characters() {
        for (value, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (7.26, "7.3"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1_234.0, "1.23k"),
            (9_999.0, "10.0k"),
            (99_960.0, "100k"),
            (999_499.0, "999k"),
            (999_600.0, "1.00M"),
            (12_345_678.0, "12.3M"),
            (9.87e9, "9.87G"),
            (f64::NAN, "0"),
            (-3.0, "0"),
        ] {
            assert_eq!(short(value), text, "{value}");
            assert!(text.len() <= 5);
        }
        assert_eq!(with_unit(129_400_000.0, "bit/s"), "129 Mbit/s");
        assert_eq!(with_unit(12.0, "bit/s"), "12 bit/s");
    }

    #[test]
    fn counts_and_times() {
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(count), text);
        }
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (725, "12m05s"), (11_220, "3h07m"), (439_200, "5d02h")]
        {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(time_of_day(1_795_401_667), "02:41:07");
    }
}
