//! The rules of this repository that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

/// The longest file and function, in lines, tests and examples aside. What is longer is on a list, which may only shrink.
const FILE_MAX: usize = 400;
const FUNCTION_MAX: usize = 70;
const LONG_FILES: [&str; 0] = [];
const LONG_FUNCTIONS: [&str; 1] = ["crates/quota-core/src/decide/session.rs: open"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// The files of the workspace's crates with this ending, and their texts.
fn files(ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let name = path
                    .strip_prefix(root())
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "{ending}");
    found.sort();
    found
}

/// The dependencies of a manifest, but those of tests.
fn dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = toml::from_str(manifest).unwrap();
    manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

#[test]
fn each_heavy_dependency_stays_behind_its_fence() {
    let fences = [
        ("sqlx", &["quota-postgres"][..]),
        ("rdkafka", &["quota-kafka"]),
        ("axum", &["quota-server"]),
        ("hyper", &["quota-server"]),
        ("tokio", &["quota-postgres", "quota-kafka", "quota-server"]),
        ("quota-postgres", &["quota-server"]),
        ("quota-kafka", &["quota-server"]),
    ];
    for (file, text) in files("Cargo.toml") {
        let name = file.split('/').nth(1).unwrap();
        let dependencies = dependencies(&text);
        for (fenced, inside) in fences {
            let has = dependencies.iter().any(|dependency| dependency == fenced);
            assert!(
                !has || inside.contains(&name),
                "{file} has {fenced}, which only {inside:?} may have"
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (file, text) in files(".rs") {
        assert!(
            text.starts_with("//! "),
            "{file} does not begin with a sentence about itself"
        );
    }
}

#[test]
fn no_file_and_no_function_is_too_long() {
    let (mut long_files, mut long_functions) = (Vec::new(), Vec::new());
    for (file, text) in files(".rs") {
        if !file.contains("/src/") {
            continue;
        }
        if text.lines().count() > FILE_MAX {
            long_files.push(file.clone());
        }
        let functions = functions(&text)
            .into_iter()
            .filter(|(_, lines)| *lines > FUNCTION_MAX);
        long_functions.extend(functions.map(|(name, _)| format!("{file}: {name}")));
    }
    assert_eq!(long_files, LONG_FILES, "more than {FILE_MAX} lines");
    assert_eq!(
        long_functions, LONG_FUNCTIONS,
        "more than {FUNCTION_MAX} lines"
    );
}

/// Functions and their lines, by the formatter's indentation: from `fn` to the brace that closes it.
fn functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut open: Vec<(usize, String, usize)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "fn");
        let leads = |word: &&str| {
            word.starts_with("pub") || ["const", "async", "unsafe", "extern"].contains(word)
        };
        if let Some(at) = at
            && words.iter().take(at).all(leads)
            && !line.trim_end().ends_with([';', '}'])
        {
            let name = words
                .get(at + 1)
                .map_or("", |rest| rest.split(['(', '<']).next().unwrap_or_default());
            open.push((indent, name.to_owned(), number));
        }
        if line.trim() == "}"
            && let Some(place) = open.iter().rposition(|(depth, ..)| *depth == indent)
        {
            let (_, name, begun) = open.swap_remove(place);
            open.truncate(place);
            found.push((name, number - begun + 1));
        }
    }
    found
}

#[test]
fn functions_are_found_and_measured() {
    let text = "fn a() {\n    x;\n}\n\nimpl B {\n    pub const fn c(\n        d: E,\n    ) -> F {\n        if g {\n        }\n    }\n}\n";
    assert_eq!(functions(text), [("a".to_owned(), 3), ("c".to_owned(), 6)]);
}

#[test]
fn nothing_is_left_undone() {
    let words = ["TODO", "FIXME", "XXX", "#[ignore", "HACK"];
    for (file, text) in files(".rs") {
        if file.ends_with("tests/it/tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in words {
                assert!(!line.contains(word), "{file}:{}: {word}", number + 1);
            }
        }
    }
}

#[test]
fn nothing_speaks_of_the_machine_that_it_was_written_on() {
    for (file, text) in files(".rs")
        .into_iter()
        .chain(files(".toml"))
        .chain(files(".sql"))
    {
        for place in ["/work/", "/root/", "/home/"] {
            assert!(
                file.ends_with("tests/it/tidy.rs") || !text.contains(place),
                "{file} has {place}"
            );
        }
    }
}
