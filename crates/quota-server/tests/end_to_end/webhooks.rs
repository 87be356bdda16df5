//! Webhooks that are held, and `quota-ledger webhook`.

use crate::program::{Node, program, run, until};
use crate::servers::{Database, Kafka};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

const SECRETS: &str = " first-secret, second-secret ";

async fn serve(database: &Database, kafka: &Kafka) -> Node {
    let mut command = program();
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("DATABASE_URL", &database.url)
        .env("KAFKA_BROKERS", &kafka.brokers)
        .env("QUOTA_APPLYX_RAZORPAY_SECRETS", SECRETS)
        .env("QUOTA_RESUME_BUILDER_RAZORPAY_SECRETS", SECRETS);
    let node = Node::start(command).await;
    let client = node.client("");
    until("it is ready for writing", async || {
        client.get("/readyz").await.status == 200
    })
    .await;
    node
}

async fn tell(node: &Node, product: &str, body: &str) -> Value {
    let mac = Hmac::<Sha256>::new_from_slice(b"second-secret").unwrap();
    let signature = hex::encode(mac.chain_update(body).finalize().into_bytes());
    let hook = format!("{}/v1/products/{product}/webhooks/razorpay", node.url());
    let request = reqwest::Client::new().post(hook).body(body.to_owned());
    let answer = request.header("X-Razorpay-Signature", signature).send();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn paid(event: &str, id: &str, amount: i64, refunded: i64, notes: &Value) -> String {
    let payment = json!({
        "id": id, "amount": amount, "currency": "INR", "invoice_id": null, "amount_refunded": refunded, "notes": notes,
        "created_at": now() - 60, "email": "gaurav.kumar@example.com",
    });
    let payload = json!({"payment": {"entity": payment}});
    json!({"entity": "event", "event": event, "payload": payload, "created_at": now()}).to_string()
}

fn listed(database: &Database) -> Vec<Value> {
    run(&database.url, &["webhook", "list"]).lines()
}

/// The held capture of a payment.
fn id_of(list: &[Value], payment: &str) -> String {
    let captured = |held: &&Value| held["event"] == "payment.captured";
    let mut found = list.iter().filter(captured);
    let found = found.find(|held| held["payment_id"] == payment);
    found.unwrap()["id"].as_str().unwrap().to_owned()
}

/// What is held is listed, resolved for a subject and a plan at whatever price, or dismissed; a node that serves meanwhile
/// sees it, and what waited for the payment is carried out with it. Bodies are gone afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn held_webhooks_are_listed_resolved_and_dismissed() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    for product in ["applyx", "resume-builder"] {
        database.publish_shipped(product);
    }
    let key = database.key();
    let mut node = serve(&database, &kafka).await;
    let client = node.client(&key);
    let nobody = json!([]);
    for (product, body) in [
        (
            "applyx",
            paid("payment.captured", "pay_1", 9000, 0, &nobody),
        ),
        (
            "applyx",
            paid("refund.processed", "pay_2", 9900, 9900, &nobody),
        ),
        (
            "applyx",
            paid("payment.captured", "pay_2", 9900, 0, &nobody),
        ),
        (
            "resume-builder",
            paid(
                "payment.captured",
                "pay_3",
                1,
                0,
                &json!({"subject": "u3", "resource": "r3"}),
            ),
        ),
        ("applyx", "no JSON".to_owned()),
    ] {
        assert_eq!(
            tell(&node, product, &body).await["status"],
            "held",
            "{body}"
        );
    }
    let list = listed(&database);
    assert_eq!(list.len(), 5);
    let members: Vec<&str> = list[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let told = [
        "id",
        "product",
        "received_at",
        "event",
        "payment_id",
        "subject",
        "reason",
    ];
    assert_eq!(members, told);
    assert_eq!(list[0]["event"], "payment.captured");
    assert_eq!(
        (&list[3]["subject"], &list[3]["reason"]),
        (&json!("u3"), &json!("wrong_amount"))
    );
    assert_eq!(
        (&list[4]["event"], &list[4]["reason"]),
        (&Value::Null, &json!("unreadable"))
    );
    let of_one = run(
        &database.url,
        &["webhook", "list", "--product", "resume-builder"],
    );
    assert_eq!(of_one.lines().len(), 1);

    let resolve = |payment: &str, subject: &str, plan: &str| {
        let id = id_of(&list, payment);
        run(
            &database.url,
            &[
                "webhook",
                "resolve",
                &id,
                "--subject",
                subject,
                "--plan",
                plan,
            ],
        )
    };
    for (payment, plan) in [("pay_1", "gold"), ("pay_1", "free")] {
        assert_eq!(resolve(payment, "u1", plan).code, 1, "{plan}");
    }
    let unreadable = list[4]["id"].as_str().unwrap();
    let arguments = [
        "webhook",
        "resolve",
        unreadable,
        "--subject",
        "u",
        "--plan",
        "basic",
    ];
    assert_eq!(run(&database.url, &arguments).code, 1);
    assert_eq!(listed(&database).len(), 5, "what was refused is still held");

    resolve("pay_1", "u1", "basic").good();
    resolve("pay_2", "u2", "basic").good();
    resolve("pay_3", "u3", "unlock").good();
    run(&database.url, &["webhook", "dismiss", unreadable]).good();
    assert_eq!(listed(&database), [] as [Value; 0]);
    assert_eq!(
        run(&database.url, &["webhook", "dismiss", unreadable]).code,
        1
    );
    assert_eq!(
        resolve("pay_1", "u1", "basic").code,
        1,
        "it is resolved already"
    );
    assert_eq!(
        run(&database.url, &["webhook", "dismiss", "nothing"]).code,
        1
    );
    assert_eq!(
        database.sql("SELECT count(*) FROM held_webhooks WHERE body IS NOT NULL"),
        "0"
    );

    until("the node knows what was resolved", async || {
        let plan = async |user: &str| {
            let path = format!("/v1/products/applyx/subjects/{user}/entitlements");
            client.get(&path).await.json()
        };
        let (one, two) = (plan("u1").await, plan("u2").await);
        one["plan"] == "basic" && two["plan"] == "free" && two["grants"][0]["status"] == "cancelled"
    })
    .await;
    let again = tell(&node, "applyx", "no JSON").await;
    assert_eq!(
        again["status"], "ignored",
        "what a person dismissed is not held again"
    );
    let held = "SELECT count(*) FROM ledger_events WHERE data::text LIKE '%gaurav%'";
    assert_eq!(database.sql(held), "0");
    node.stop().await;
    database.verify();
}
