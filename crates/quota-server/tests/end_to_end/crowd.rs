//! Clients that hold connections open and say nothing.

use crate::client::unique;
use crate::program::{Node, program};
use crate::servers::{Database, Kafka};
use std::process::Command;
use std::time::Duration;
use tokio::net::TcpStream;

const PRODUCT: &str = "applyx";
/// The files that the node may open: a quarter of them is for its own work.
const FILES: usize = 256;
/// More connections than it has places.
const SILENT: usize = 400;

/// `serve` in a process that may open few files.
async fn with_few_files(database: &Database, kafka: &Kafka) -> Node {
    let program = program();
    let mut command = Command::new("sh");
    for (name, _) in program.get_envs() {
        command.env_remove(name);
    }
    let limited = format!("ulimit -n {FILES} && exec \"$0\" \"$@\"");
    command.args(["-c", &limited]).arg(program.get_program());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    command
        .env("DATABASE_URL", &database.url)
        .env("KAFKA_BROKERS", &kafka.brokers);
    Node::start(command).await
}

/// Whoever only holds a connection open keeps nobody out: it gives way while others wait, and the node has files left to
/// reach its own servers with.
///
/// Failed when silent clients had their 75 s in a crowd too, and when there were more places than files.
#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_give_way() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let mut node = with_few_files(&database, &kafka).await;
    let client = node.client(&key);
    let address = node.url().trim_start_matches("http://").to_owned();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let subject = unique("behind-a-crowd");
    let asked = client.consume(PRODUCT, &subject, "resume_edits", None);
    let answer = tokio::time::timeout(Duration::from_secs(60), asked).await;
    let answer = answer.expect("it is not answered behind a crowd");
    assert_eq!(answer.unwrap().status, 200);
    drop(silent);
    node.stop().await;
}
