//! `bodies::kept::event` says what is tried.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bodies::kept::event(bytes);
});
