//! The connection itself: limits of size and time, requests one after another, and a stop that drops nothing.

use crate::harness::{Fixture, PRODUCT, RUNTIME, path, subject, with_service};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn connect(service: &Fixture) -> TcpStream {
    TcpStream::connect(service.url.trim_start_matches("http://"))
        .await
        .unwrap()
}

/// Everything until the other side closes.
async fn rest(mut socket: TcpStream) -> String {
    let mut text = Vec::new();
    socket.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_body_that_is_too_large_is_answered_however_it_is_sent() {
    with_service(|service| async move {
        let large = "x".repeat(3 * 1024 * 1024);
        let answer = service
            .post_with(&path("u", "consume"), &[], large.clone())
            .await;
        assert_eq!(
            answer.problem(),
            (413, "body_too_large".into(), String::new())
        );
        // In chunks, its size is not announced.
        let mut socket = connect(service).await;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
            path("u", "consume")
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket
            .write_all(format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len()).as_bytes())
            .await
            .unwrap();
        assert!(rest(socket).await.starts_with("HTTP/1.1 413 "));
        // One who asks first is told before sending.
        let mut socket = connect(service).await;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3000000\r\n\r\n",
            path("u", "consume")
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        assert!(rest(socket).await.starts_with("HTTP/1.1 413 "));
        let full = format!(
            "{{\"feature\": \"interviews\", \"resource\": \"{}\"}}",
            "x".repeat(1024 * 1024 - 60)
        );
        assert_eq!(
            service
                .post_with(&path("u", "consume"), &[], full)
                .await
                .status,
            422,
            "just below the limit it is read"
        );
    });
}

#[test]
fn a_request_that_falls_silent_is_answered_408() {
    with_service(|service| async move {
        let heads = [
            "GET /healthz HT".to_owned(),
            format!(
                "POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{\"feat",
                path("u", "consume")
            ),
        ];
        let silent = heads.map(|head| async move {
            let mut socket = connect(service).await;
            socket.write_all(head.as_bytes()).await.unwrap();
            let begun = Instant::now();
            let answer = rest(socket).await;
            assert!(
                answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"),
                "{answer}"
            );
            let took = begun.elapsed().as_secs();
            assert!((9..=13).contains(&took), "{took} s");
        });
        futures::future::join_all(silent).await;
    });
}

#[test]
fn a_slow_request_is_read_to_its_end() {
    with_service(|service| async move {
        let mut socket = connect(service).await;
        let text = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        for part in text.as_bytes().chunks(10) {
            socket.write_all(part).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
        assert!(rest(socket).await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn one_connection_carries_many_requests_in_order() {
    with_service(|service| async move {
        let mut socket = connect(service).await;
        let user = subject();
        let get = format!(
            "GET {} HTTP/1.1\r\nhost: x\r\nauthorization: bearer {}\r\n\r\n",
            path(&user, "check?feature=interviews"),
            service.key
        );
        let nothing = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";
        let last = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        socket
            .write_all(format!("{get}{nothing}{last}").as_bytes())
            .await
            .unwrap();
        let text = rest(socket).await;
        let statuses: Vec<&str> = text
            .split("HTTP/1.1 ")
            .skip(1)
            .map(|answer| &answer[..3])
            .collect();
        assert_eq!(statuses, ["200", "404", "200"]);
        let mut socket = connect(service).await;
        socket.write_all(b"nonsense\r\n\r\n").await.unwrap();
        let answer = rest(socket).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    });
}

/// A head that cannot be read is answered with a problem, also where most of it still lies unread in the socket.
///
/// Failed when hyper's bare answer went out, and when a header of 300 kB was taken. (That the rest is read before the socket is closed does not show here: on Linux
/// a client reads what came before a reset.)
#[test]
fn an_unreadable_head_is_answered_with_a_problem() {
    with_service(|service| async move {
        let many: String = (0..30_000).map(|n| format!("x-{n}: y\r\n")).collect();
        let heads = [
            (
                "GET /healthz HTTP/1.1\r\nhost: x\x01\r\n\r\n".to_owned(),
                400,
                "malformed",
            ),
            (
                "GET /a\x02b HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
                400,
                "malformed",
            ),
            (
                format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
                431,
                "headers_too_large",
            ),
            (
                format!(
                    "GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n",
                    "y".repeat(300_000)
                ),
                431,
                "headers_too_large",
            ),
            (
                format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000)),
                414,
                "uri_too_long",
            ),
        ];
        for (head, status, code) in heads {
            let mut socket = connect(service).await;
            socket.write_all(head.as_bytes()).await.unwrap_or_default();
            let answer = rest(socket).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            assert!(answer.contains("application/problem+json"), "{answer}");
            assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
        }
    });
}

/// A client that reads nothing of its answers is cut off, so that what waits for it does not lie in memory for ever.
///
/// Failed without a limit to how long an answer may wait (all 400 answers come, half a minute later).
#[test]
fn a_client_that_never_reads_is_cut_off() {
    with_service(|service| async move {
        let mut socket = connect(service).await;
        let get = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
        socket.write_all(get.repeat(400).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(25)).await;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap_or_default();
        let answers = String::from_utf8_lossy(&bytes)
            .matches("HTTP/1.1 200")
            .count();
        assert!((1..400).contains(&answers), "{answers} answers");
    });
}

#[test]
fn a_stop_answers_every_request_that_got_in() {
    RUNTIME.block_on(async {
        let service = Fixture::start().await;
        let client = reqwest::Client::builder().pool_max_idle_per_host(64).build().unwrap();
        let url = format!("{}{}", service.url, format_args!("/v1/products/{PRODUCT}/subjects"));
        let stop = tokio_util::sync::CancellationToken::new();
        let (key, ledger) = (service.key.clone(), service.ledger.clone());
        let running = tokio::spawn(service.host.run(stop.clone()));
        // Whoever has connected by now has got in.
        let mut sockets = Vec::new();
        for _ in 0..50 {
            sockets.push(TcpStream::connect(url.trim_start_matches("http://").split('/').next().unwrap()).await.unwrap());
        }
        let body = json!({"feature": "resume_downloads"}).to_string();
        let head = |user: usize| {
            format!(
                "POST /v1/products/{PRODUCT}/subjects/drain-{user}/consume HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        for (user, socket) in sockets.iter_mut().enumerate() {
            socket.write_all(head(user).as_bytes()).await.unwrap();
            if user == 25 {
                stop.cancel();
            }
        }
        for socket in sockets {
            let answer = rest(socket).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(answer.contains("connection: close") || !answer.is_empty());
        }
        tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
        assert!(client.get(&url).send().await.is_err(), "nobody listens any more");
        let heads: i64 = ledger.heads().await.unwrap().iter().map(|head| head.offset + 1).sum();
        assert_eq!(heads, 8 * 3 + 50, "each of them is in the ledger");
    });
}
