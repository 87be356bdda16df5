//! `bodies::events::http` says what is tried.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bodies::events::http(bytes);
});
