//! Fragments: a script of them, of four bytes each; the same bytes as frames.

use mcr_wire::{LinkLayer, Reassembly, parse_fragment};

use crate::reassembly_oracle::assert_agreement;

/// Asserts the property.
///
/// # Panics
/// It does not hold.
pub fn check(data: &[u8]) {
    assert_agreement(data);
    for link in [LinkLayer::Ethernet, LinkLayer::None] {
        let Some(fragment) = parse_fragment(data, link) else { continue };
        let bytes = &data[fragment.data.clone()];
        Reassembly::new().take(&fragment, bytes, 0, |lost| panic!("nothing is under way: {lost:?}"));
    }
}
