//! What the README says is what happens: its quick start, line by line, and the demo.

use crate::program::{Node, program};
use crate::servers::root;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Lines to paste, and what is said to come of them; `…` stands for anything.
struct Block {
    lines: String,
    answers: Vec<String>,
}

/// The blocks that are marked as tested, each with the text that follows it at once.
fn blocks(readme: &str) -> Vec<Block> {
    let marked = readme.split("```sh tested\n").skip(1);
    marked
        .map(|rest| {
            let (lines, rest) = rest.split_once("```\n").unwrap();
            let answers = rest
                .strip_prefix("```text\n")
                .map_or("", |text| text.split_once("```").unwrap().0);
            Block {
                lines: lines.to_owned(),
                answers: answers.lines().map(str::to_owned).collect(),
            }
        })
        .collect()
}

/// Whether a line is as an answer of the README has it.
fn is_as_written(line: &str, answer: &str) -> bool {
    let pieces: Vec<&str> = answer.split('…').collect();
    let [first, others @ ..] = pieces.as_slice() else {
        return false;
    };
    let Some((last, middle)) = others.split_last() else {
        return line == answer;
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    for piece in middle {
        let Some((_, after)) = rest.split_once(piece) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

/// A folder like the repository's after `scripts/dev` has built it, without anything in it yet.
fn checkout() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    // The database's user has to pass, when this runs as root.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
    symlink(root().join("scripts"), folder.path().join("scripts")).unwrap();
    fs::create_dir_all(folder.path().join("target/release")).unwrap();
    let built = folder.path().join("target/release/quota-ledger");
    symlink(env!("CARGO_BIN_EXE_quota-ledger"), built).unwrap();
    folder
}

/// Pastes all blocks into one shell, a marker behind each.
fn paste(blocks: &[Block], folder: &Path) -> Output {
    let script: String = blocks
        .iter()
        .map(|block| format!("{}printf '\\n--- next block\\n'\n", block.lines))
        .collect();
    Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_answers_as_written() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = blocks(&readme);
    assert!(
        blocks
            .iter()
            .filter(|block| !block.answers.is_empty())
            .count()
            >= 7,
        "the README lost its blocks"
    );
    let folder = checkout();
    let mut command = program();
    command
        .args(["dev", "--listen", "127.0.0.1:0"])
        .current_dir(folder.path());
    let mut node = Node::start(command).await;
    let env = folder.path().join(".quota-ledger/env");
    assert_eq!(
        fs::metadata(&env).unwrap().permissions().mode() & 0o777,
        0o600,
        "it has the key"
    );

    // Twice: the lines are there to be pasted as often as one likes.
    for _ in 0..2 {
        let pasted = paste(&blocks, folder.path());
        let (out, err) = (
            String::from_utf8(pasted.stdout).unwrap(),
            String::from_utf8(pasted.stderr).unwrap(),
        );
        let outputs: Vec<&str> = out.split("\n--- next block\n").collect();
        assert_eq!(outputs.len(), blocks.len() + 1, "{out}\n{err}");
        for (block, output) in blocks.iter().zip(outputs) {
            let mut came = output.lines();
            for answer in &block.answers {
                let found = came.any(|line| is_as_written(line, answer));
                assert!(
                    found,
                    "{}came to\n{output}\nwithout\n{answer}\n{err}",
                    block.lines
                );
            }
        }
        // The user's name has the second in it.
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    }
    node.stop().await;
    assert!(!env.exists(), "it still tells where nobody answers");
}

#[test]
fn the_demo_comes_out_as_written() {
    let played = program().arg("demo").output().unwrap();
    let (out, err) = (
        String::from_utf8(played.stdout).unwrap(),
        String::from_utf8(played.stderr).unwrap(),
    );
    assert_eq!(played.status.code(), Some(0), "{out}\n{err}");
    assert!(!out.contains("FAILED"), "{out}");
    for words in [
        "402 Resume limit reached (the first answer again)",
        "200, 402",
        "1 dropped as told before, put aside: malformed, unknown_feature",
        "Your one-time subscription for this resume has expired.",
        "every hash, every order",
        "5 views: each is the fold of its events",
        "39 of 39 events on the Kafka topic, byte for byte",
    ] {
        assert!(out.contains(words), "{words}\n{out}");
    }
    assert!(out.ends_with("All of it came out as written.\n"), "{out}");
}

#[test]
fn the_demo_leaves_a_used_folder_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "").unwrap();
    let refused = program()
        .args(["demo", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn answers_are_compared_around_what_is_left_out() {
    assert!(
        is_as_written("a 1 b 2 c", "a…b…c")
            && is_as_written("abc", "abc")
            && is_as_written("abc", "…b…")
    );
    for answer in ["a…c…b", "b…c", "a…b", "ab"] {
        assert!(!is_as_written("a 1 b 2 c", answer), "{answer}");
    }
}
