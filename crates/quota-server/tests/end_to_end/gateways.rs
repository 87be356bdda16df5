//! Real gateways in front of a real service: what they pass on, and what never reaches the product behind them.

use crate::client::unique;
use crate::program::{LIMIT, Node, program, run, until};
use crate::servers::{psql, root};
use reqwest::{Client, Method, RequestBuilder};
use std::fs::{self, Permissions};
use std::net::TcpListener as StdListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const UPLOAD: &str = "/api/v1/resumes/upload";

/// A product: it answers everything, and remembers what came, and whether that was in the ledger by then.
struct Product {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    /// How many events the ledger had at the position that came with it.
    recorded: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(own, _)| own == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {self:?}");
        value
    }
}

impl Product {
    async fn start(database_url: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let kept = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(socket, database_url.clone(), Arc::clone(&kept)));
            }
        });
        Self { address, seen }
    }

    /// What came since this was last asked.
    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn answer(mut socket: TcpStream, database_url: String, seen: Arc<Mutex<Vec<Seen>>>) {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match socket.read(&mut piece).await {
            Ok(1..) => request.extend_from_slice(&piece),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers = lines.map_while(|line| line.split_once(": "));
    let headers: Vec<(String, String)> = headers
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut came = Seen {
        line,
        headers,
        recorded: String::new(),
    };
    if let Some((partition, offset)) = came
        .header("x-quota-position")
        .and_then(|at| at.split_once(':'))
    {
        let (partition, offset): (u32, u64) = (partition.parse().unwrap(), offset.parse().unwrap());
        let statement = format!(
            "SELECT subject, type FROM ledger_events WHERE ledger_partition = {partition} AND ledger_offset = {offset}"
        );
        let asked = tokio::task::spawn_blocking(move || psql(&database_url, &statement));
        came.recorded = asked.await.unwrap();
    }
    seen.lock().unwrap().push(came);
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nproduct";
    socket
        .write_all(answer.as_bytes())
        .await
        .unwrap_or_default();
}

/// A gateway's process, ended with its test.
struct Gateway {
    name: &'static str,
    url: String,
    process: Child,
    dir: TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Where everything is that a gateway needs to know.
struct Place<'a> {
    ledger: &'a str,
    key: &'a str,
    product: &'a str,
}

impl Gateway {
    async fn nginx(place: &Place<'_>) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let snippet = root().join("scripts/gateways/nginx.conf");
        let at = dir.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = temporary
            .map(|what| format!("{what}_temp_path {at}/{what};\n"))
            .concat();
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/log warn;\nevents {{}}\nhttp {{\n\
             access_log off;\n{temporary}upstream quota_ledger {{ server {}; }}\nupstream product {{ server {}; }}\n\
             server {{ listen 127.0.0.1:{port}; set $quota_product applyx; set $quota_key {}; include {}; }}\n}}\n",
            place.ledger,
            place.product,
            place.key,
            snippet.display()
        );
        fs::write(dir.path().join("nginx.conf"), configuration).unwrap();
        let mut command = Command::new("nginx");
        command
            .args(["-e", "stderr", "-p"])
            .arg(dir.path())
            .args(["-c", "nginx.conf"]);
        Self::start("nginx", command, port, dir).await
    }

    async fn caddy(place: &Place<'_>) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = Command::new("caddy");
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(root().join("scripts/gateways/Caddyfile"))
            .env("LISTEN", format!("http://127.0.0.1:{port}"))
            .env("QUOTA_LEDGER", place.ledger)
            .env("QUOTA_PRODUCT", "applyx")
            .env("QUOTA_KEY", place.key)
            .env("PRODUCT", place.product)
            .env("HOME", dir.path())
            .env("XDG_DATA_HOME", dir.path());
        Self::start("caddy", command, port, dir).await
    }

    async fn start(name: &'static str, mut command: Command, port: u16, dir: TempDir) -> Self {
        let log = fs::File::create(dir.path().join("said")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("{name} is needed ({error}): scripts/install nginx caddy")
        });
        let mut gateway = Self {
            name,
            url: format!("http://127.0.0.1:{port}"),
            process,
            dir,
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let said = || fs::read_to_string(gateway.dir.path().join("said")).unwrap();
            let ended = gateway.process.try_wait().unwrap();
            assert!(ended.is_none(), "{name} has ended: {}", said());
            assert!(
                started.elapsed() < LIMIT,
                "{name} does not listen: {}",
                said()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateway
    }

    fn ask(&self, method: Method, target: &str, user: Option<&str>) -> RequestBuilder {
        let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let request = client.request(method, format!("{}{target}", self.url));
        match user {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// Status and body.
async fn told(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// What a client would send to be taken for somebody else, to be told an old answer, or to hide what it asks for.
fn forged(request: RequestBuilder) -> RequestBuilder {
    request
        .header("X-Request-Id", "the-same-for-ever")
        .header("X-Quota-Subject", "victim")
        .header("X-Quota-Position", "0:0")
        .header("X-Quota-Hold", "h")
        .header("X-Quota-Key", "k")
        .header("X-Forwarded-Method", "GET")
        .header("X-Forwarded-Uri", "/open")
        .header("X-Original-Method", "GET")
        .header("X-Original-URI", "/open")
        .header("X-HTTP-Method-Override", "PUT")
}

/// A user's token, made as the README says.
fn token(node: &Node, user: &str) -> String {
    let secret = node.ready["products"]["applyx"]["jwt_hs256"]
        .as_str()
        .unwrap();
    let made = Command::new(root().join("scripts/token"))
        .args(["applyx", user])
        .env("QUOTA_APPLYX_JWT_HS256", secret)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

async fn dev(data: &Path) -> Node {
    let mut command = program();
    command
        .args(["dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(data);
    Node::start(command).await
}

/// Seen to fail with snippets that left the client's X-Request-Id or X-Quota-Subject as they came.
#[tokio::test(flavor = "multi_thread")]
async fn gateways_pass_what_is_in_the_ledger_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
    let mut node = dev(&folder.path().join("data")).await;
    let database_url = node.ready["database_url"].as_str().unwrap().to_owned();
    let made = run(
        &database_url,
        &[
            "key",
            "create",
            "--product",
            "applyx",
            "--scope",
            "consume,gateway",
        ],
    );
    let key = made.good().trim().to_owned();
    let product = Product::start(database_url).await;
    let url = node.ready["url"].as_str().unwrap();
    let place = Place {
        ledger: url.strip_prefix("http://").unwrap(),
        key: &key,
        product: &product.address,
    };
    let gateways = [Gateway::nginx(&place).await, Gateway::caddy(&place).await];
    // A new key works within seconds.
    until("the key is known", async || {
        let passed = told(gateways[0].ask(Method::GET, "/", None)).await;
        passed.0 == 200
    })
    .await;
    for gateway in &gateways {
        product.seen();
        assert_gated(gateway, &product, &node).await;
        assert_open(gateway, &product, &node).await;
        assert_tricks_fail(gateway, &product, &node).await;
    }
    node.stop().await;
    for gateway in &gateways {
        let (status, _) = told(gateway.ask(Method::POST, UPLOAD, Some("a.b.c"))).await;
        assert!(status >= 500, "{}: {status} without a ledger", gateway.name);
        assert!(product.seen().is_empty(), "{}", gateway.name);
    }
}

async fn assert_gated(gateway: &Gateway, product: &Product, node: &Node) {
    let user = unique("user");
    let token = token(node, &user);
    // The query is the client's, and chooses nothing.
    let target = format!("{UPLOAD}?mode=check&deny_status=real");
    let ask = || forged(gateway.ask(Method::POST, &target, Some(&token))).body("a resume");
    assert_eq!(
        told(ask()).await,
        (200, "product".to_owned()),
        "{}",
        gateway.name
    );
    let came = product.seen();
    let [seen] = &came[..] else {
        panic!("{came:?}")
    };
    assert!(
        seen.line.starts_with(&format!("POST {target} ")),
        "{seen:?}"
    );
    assert_eq!(
        seen.header("x-quota-subject"),
        Some(user.as_str()),
        "{}: {seen:?}",
        gateway.name
    );
    assert_eq!(
        seen.recorded,
        format!("{user}|usage.recorded"),
        "before the product saw it"
    );
    for gone in [
        "x-quota-hold",
        "x-quota-key",
        "x-quota-status",
        "x-http-method-override",
    ] {
        assert!(
            seen.header(gone).is_none_or(str::is_empty),
            "{}: {gone} {seen:?}",
            gateway.name
        );
    }
    assert_ne!(seen.header("x-request-id"), Some("the-same-for-ever"));

    // A client that fixes the request's id is not told its first answer again.
    for _ in 0..2 {
        let answer = ask().send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 402, "{}", gateway.name);
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["code"], "LIMIT_REACHED", "{body}");
        assert_eq!(body["error"]["message"], "Resume limit reached");
        assert_eq!(body["error"]["upgrade_plans"][0]["price"], 9900);
    }
    for stranger in [None, Some("a.b.c")] {
        let (status, body) = told(gateway.ask(Method::POST, UPLOAD, stranger)).await;
        assert_eq!(status, 401, "{}", gateway.name);
        assert!(body.contains(r#""code":"unauthorized""#), "{body}");
    }
    assert!(
        product.seen().is_empty(),
        "{}: a refused request came through",
        gateway.name
    );
}

async fn assert_open(gateway: &Gateway, product: &Product, node: &Node) {
    let user = unique("user");
    let token = token(node, &user);
    for (token, named) in [(None, ""), (Some(token.as_str()), user.as_str())] {
        for method in [Method::GET, Method::POST] {
            let ask = forged(gateway.ask(method, "/api/v1/jobs/search?q=%2F", token));
            assert_eq!(told(ask).await.0, 200, "{}", gateway.name);
            let came = product.seen();
            let [seen] = &came[..] else {
                panic!("{came:?}")
            };
            assert_eq!(
                seen.header("x-quota-subject").unwrap_or_default(),
                named,
                "{}",
                gateway.name
            );
            assert!(seen.header("x-quota-position").is_none_or(str::is_empty));
        }
    }
}

async fn assert_tricks_fail(gateway: &Gateway, product: &Product, node: &Node) {
    let user = unique("user");
    let token = token(node, &user);
    assert_eq!(
        told(gateway.ask(Method::POST, UPLOAD, Some(&token)))
            .await
            .0,
        200
    );
    product.seen();
    for (target, expected) in [
        ("/api/v1/resumes/%75pload", 402),
        ("//api//v1/resumes/upload/", 402),
        ("/api/v1/resumes%2Fupload", 400),
        ("/api/v1/resumes%252Fupload", 400),
        ("/api/v1/resumes/upload;x=1", 400),
        ("/API/v1/resumes/upload", 400),
        ("/api/v1/resumes%5Cupload", 400),
    ] {
        let (status, _) = told(forged(gateway.ask(Method::POST, target, Some(&token)))).await;
        assert_eq!(status, expected, "{}: {target}", gateway.name);
        assert!(
            product.seen().is_empty(),
            "{}: {target} came through",
            gateway.name
        );
    }
}
