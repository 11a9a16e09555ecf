//! Addresses as media players write them.

use std::net::SocketAddr;

/// The address and port of a text such as `239.1.1.1:5000`, `udp://@239.1.1.1:5000` (VLC) or
/// `rtp://10.0.0.1@239.1.1.1:5000?pkt_size=1316` (FFmpeg); `None` if there are not both.
#[must_use]
pub fn socket_address(text: &str) -> Option<SocketAddr> {
    let (_, rest) = text.split_once("://").unwrap_or(("", text));
    let (_, rest) = rest.split_once('@').unwrap_or(("", rest));
    rest.split(['/', '?']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_media_players_are_read() {
        let expected = "239.1.1.1:5000".parse().ok();
        for text in [
            "239.1.1.1:5000",
            "udp://@239.1.1.1:5000",
            "udp://239.1.1.1:5000/",
            "rtp://10.0.0.1@239.1.1.1:5000?pkt_size=1316",
        ] {
            assert_eq!(socket_address(text), expected, "{text}");
        }
        assert_eq!(socket_address("udp://@[ff15::1]:5000"), "[ff15::1]:5000".parse().ok());
        for text in ["", "239.1.1.1", "udp://@239.1.1.1", "udp://@studio:5000", "10.0.0.0/8"] {
            assert_eq!(socket_address(text), None, "{text}");
        }
    }
}
