//! Clients that hold connections open and say nothing, or hardly anything.

use crate::client::{Client, unique};
use crate::program::{LIMIT, Node, program};
use crate::servers::{Database, Kafka};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PRODUCT: &str = "applyx";
/// The files that the node may open: a quarter of them is for its own work.
const FILES: usize = 256;
/// More connections than it has places.
const CROWD: usize = 400;

/// A node that may open few files, the servers that it needs, and a client of it.
async fn scene() -> ((Database, Kafka), Node, Client) {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let node = with_few_files(&database, &kafka).await;
    let client = node.client(&key);
    ((database, kafka), node, client)
}

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
    let (_servers, mut node, client) = scene().await;
    let address = node.url().trim_start_matches("http://").to_owned();
    let mut silent = Vec::new();
    for _ in 0..CROWD {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    assert_served(&client).await;
    drop(silent);
    node.stop().await;
}

/// So does whoever never stops sending a request, a byte at a time: without that, a few hundred of them hold every place for as
/// long as they like.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_never_sent_to_their_end_give_way() {
    let (_servers, mut node, client) = scene().await;
    let address = node.url().trim_start_matches("http://").to_owned();
    let mut drips = JoinSet::new();
    for _ in 0..CROWD {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        drips.spawn(async move {
            let head = b"POST /v1/products/applyx/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n";
            let mut sent = socket.write_all(head).await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_secs(2)).await;
                sent = socket.write_all(b" ").await;
            }
        });
    }
    assert_served(&client).await;
    drips.shutdown().await;
    node.stop().await;
}

/// Whoever comes behind the crowd is answered.
async fn assert_served(client: &Client) {
    let started = Instant::now();
    loop {
        let subject = unique("behind-a-crowd");
        let asked = client.consume(PRODUCT, &subject, "resume_edits", None);
        let answer = asked.await;
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return;
        }
        // It may not write yet, and a machine may be slow.
        assert!(
            started.elapsed() < LIMIT,
            "not answered behind a crowd: {answer:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
