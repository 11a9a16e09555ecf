//! Raw frames, well-formed and hostile, and a sender for them.
