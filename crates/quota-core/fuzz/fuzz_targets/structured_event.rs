//! `bodies::events::structured` says what is tried.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bodies::events::structured(bytes);
});
