//! Every decoder, with the corpus of its fuzz target and seeded mutations of it: in seconds what `scripts/fuzz` does for hours.

#![expect(
    clippy::disallowed_methods,
    reason = "this test reads the committed corpus"
)]

#[path = "../../fuzz/bodies/mod.rs"]
mod bodies;

use bodies::Body;
use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// What decoders stumble over.
const WORDS: [&[u8]; 26] = [
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"1.0",
    b"-1",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551616",
    b"\\ud800",
    b"\\u0000",
    b"\"",
    b"[",
    b"{",
    b"}",
    b":",
    b"\n\n",
    b"\0",
    b"\xff",
    b"%2f",
    b"%25",
    b"/../",
    "\u{feff}".as_bytes(),
    "\u{1f600}".as_bytes(),
    b"1970-01-01T00:00:00Z",
    b"9999-12-31T23:59:60.9999999+23:59",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// A target's corpus, in a fixed order.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder().join("corpus").join(target)).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs a body, and says by which input it failed.
fn attempt(target: &str, body: Body, bytes: &[u8]) -> bool {
    catch_unwind(|| body(bytes)).unwrap_or_else(|_| {
        let shown = &bytes[..bytes.len().min(4096)];
        panic!("{target} fails by: {}", shown.escape_ascii());
    })
}

/// A sequence of numbers that is the same in every run.
struct Dice(u64);

impl Dice {
    /// The next number below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % sides.max(1)
    }

    /// Some of the bytes, from one place to another.
    fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.roll(length + 1);
        start..(start + self.roll(40)).min(length)
    }

    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.roll(corpus.len())].clone();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            match self.roll(7) {
                0 if !bytes.is_empty() => {
                    let at = self.roll(bytes.len());
                    bytes[at] ^= 1 << self.roll(8);
                }
                1 => drop(bytes.splice(at..at, WORDS[self.roll(WORDS.len())].to_vec())),
                2 => {
                    let part = self.part(bytes.len());
                    bytes.splice(part, WORDS[self.roll(WORDS.len())].to_vec());
                }
                3 => {
                    let part = self.part(bytes.len());
                    bytes.drain(part);
                }
                4 => {
                    let again = bytes[self.part(bytes.len())].to_vec();
                    bytes.splice(at..at, again);
                }
                5 => {
                    let other = &corpus[self.roll(corpus.len())];
                    let theirs = other[self.part(other.len())].to_vec();
                    bytes.splice(at..at, theirs);
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}

/// Whatever a decoder is given, its body holds. It takes some of its corpus, so that what is mutated is no nonsense from the
/// start.
fn holds(target: &str) {
    let heavy = [
        vec![b'['; 100_000],
        b"{\"a\":".repeat(20_000),
        vec![b'a'; 1 << 20],
        vec![0xff; 1 << 16],
        b"\"\\u0000".repeat(10_000),
        b"a: b\n".repeat(10_000),
        b"%41".repeat(20_000),
        b"/..".repeat(20_000),
        Vec::new(),
    ];
    let found = bodies::ALL.iter().find(|(name, _)| *name == target);
    let body = found.unwrap().1;
    let corpus = corpus(target);
    let taken = corpus.iter().filter(|bytes| attempt(target, body, bytes));
    assert!(taken.count() > 0, "{target} takes nothing of its corpus");
    for bytes in &heavy {
        attempt(target, body, bytes);
    }
    let rounds = match target {
        "catalog" => 150,
        "story" => 400,
        _ => 3_000,
    };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds {
        attempt(target, body, &dice.mutate(&corpus));
    }
}

macro_rules! decoders {
    ($($name:ident)*) => {
        /// The decoders that are tried here.
        const TRIED: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                holds(stringify!($name));
            }
        )*
    };
}

// Seen to fail when `route::normal` let `;` pass (route), when the encoding of events left out `at_period_end` where it is false
// (six of them), and, before it was mended, when an unknown member's name was told with its control characters (import_line).
decoders! {
    batch catalog checkpoint event http_event import_line json kafka_event notice position record route state story
    structured_event
}

/// Every body has its test, its target and its corpus, and there are no others.
#[test]
fn every_decoder_is_a_fuzz_target() {
    let bodies: BTreeSet<String> = bodies::ALL
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let tried = TRIED.iter().map(|name| (*name).to_owned());
    assert_eq!(tried.collect::<BTreeSet<_>>(), bodies);
    for part in ["fuzz_targets", "corpus"] {
        let files = fs::read_dir(folder().join(part)).unwrap();
        let names = files.map(|file| file.unwrap().path().with_extension(""));
        let names = names.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
        assert_eq!(names.collect::<BTreeSet<_>>(), bodies, "{part}");
    }
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &bodies {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
