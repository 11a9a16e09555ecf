//! Serializes an interface index as a number.

use mcr_sys::link::IfIndex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde requires")]
pub(in crate::core) fn serialize<S: Serializer>(ifindex: &IfIndex, serializer: S) -> Result<S::Ok, S::Error> {
    ifindex.to_raw().serialize(serializer)
}

pub(in crate::core) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IfIndex, D::Error> {
    u32::deserialize(deserializer).map(IfIndex::new)
}
