#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcr_fuzz::health::check(data));
