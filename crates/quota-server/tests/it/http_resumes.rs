//! Resume Builder, as its clients meet it: one purchase pays for one resume over 21 days.

use crate::harness::{Answer, Fixture, send, subject, token, with_service};
use crate::jwt::now;
use quota_core::time::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

const DAY: i64 = 86_400;

/// A user of a product, and what happened to it.
struct User<'a> {
    service: &'a Fixture,
    product: &'a str,
    name: String,
}

impl<'a> User<'a> {
    fn new(service: &'a Fixture) -> Self {
        Self {
            service,
            product: "resume-builder",
            name: subject(),
        }
    }

    fn path(&self, rest: &str) -> String {
        format!(
            "/v1/products/{}/subjects/{}/{rest}",
            self.product, self.name
        )
    }

    /// Tells what happened so many seconds ago.
    async fn tell(&self, kind: &str, ago: i64, data: Value) {
        let time = Timestamp::from_micros((now() - ago) * 1_000_000).to_string();
        let event = json!({"specversion": "1.0", "type": format!("quota.{kind}.v1"), "id": uuid::Uuid::new_v4(),
            "source": "/t", "subject": self.name, "time": time, "data": data});
        let headers = [("Content-Type", "application/cloudevents+json")];
        let path = format!("/v1/products/{}/events", self.product);
        let told = self
            .service
            .post_with(&path, &headers, event.to_string())
            .await;
        assert_eq!(told.status, 200, "{}", told.text);
    }

    async fn buys(&self, plan: &str, payment: &str, ago: i64, resource: Option<&str>) {
        let price = match plan {
            "pro_monthly" => 19_900,
            "pro_yearly" => 199_000,
            _ => 4_900,
        };
        let payment = format!("{payment}-{}", self.name);
        let mut data =
            json!({"plan": plan, "payment_id": payment, "amount": price, "currency": "INR"});
        if let Some(resource) = resource {
            data["resource"] = json!(resource);
        }
        self.tell("subscription.purchased", ago, data).await;
    }

    async fn does(&self, feature: &str, resource: &str, amount: i64) -> Answer {
        let body = json!({"feature": feature, "resource": resource, "amount": amount});
        self.service.post(&self.path("consume"), &body).await
    }

    async fn may(&self, feature: &str, resource: &str) {
        let answer = self.does(feature, resource, 1).await;
        assert_eq!(
            answer.status, 200,
            "{feature} of {resource}: {}",
            answer.text
        );
    }

    /// The refusal is the product's own, of a consume and of a check.
    async fn may_not(&self, feature: &str, resource: &str, words: (&str, &str, bool)) -> Value {
        let (error, message, upgrade) = words;
        let own = json!({"error": error, "message": message, "requiresUpgrade": upgrade});
        let check = self
            .service
            .get(&self.path(&format!("check?feature={feature}&resource={resource}")))
            .await;
        let consume = self.does(feature, resource, 1).await;
        assert_eq!(
            (check.status, consume.status),
            (200, 403),
            "{feature} of {resource}: {}",
            consume.text
        );
        for body in [check.json(), consume.json()] {
            assert_eq!(
                body["denial"],
                json!({"status": 403, "body": own}),
                "{feature} of {resource}"
            );
            assert_eq!(body["message"], message);
        }
        consume.json()
    }

    async fn resource(&self, id: &str) -> Value {
        let request = self
            .service
            .request(Method::GET, &self.path("entitlements"));
        let asked = if self.product == "resume-builder" {
            token(self.product, &self.name)
        } else {
            self.service.key.clone()
        };
        let all = send(request.bearer_auth(asked)).await.json();
        let mut found = all["resources"].as_array().unwrap().iter();
        found
            .find(|resource| resource["id"] == id)
            .unwrap_or_else(|| panic!("{all}"))
            .clone()
    }
}

const EXPIRED: (&str, &str, bool) = (
    "Subscription expired",
    "Your one-time subscription for this resume has expired. Please purchase again to continue using AI features.",
    true,
);

#[test]
fn a_purchase_lives_for_21_days_to_the_second() {
    with_service(|service| async move {
        let alive = User::new(service);
        alive.buys("one_time", "p", 21 * DAY - 60, None).await;
        alive.may("resumes", "r1").await;
        for feature in [
            "ai_generations",
            "resume_downloads",
            "resume_edit",
            "resume_view",
        ] {
            alive.may(feature, "r1").await;
        }
        let resource = alive.resource("r1").await;
        assert_eq!(
            (
                &resource["status"],
                &resource["why"],
                &resource["days_left"]
            ),
            (&json!("active"), &json!(null), &json!(1))
        );
        assert_eq!(resource["grant"], format!("p-{}", alive.name));

        let over = User::new(service);
        over.buys("one_time", "p", 21 * DAY + 60, None).await;
        over.tell("resource.created", 20 * DAY, json!({"resource": "r1"}))
            .await;
        for feature in ["ai_generations", "resume_downloads", "resume_edit"] {
            let body = over.may_not(feature, "r1", EXPIRED).await;
            let offers: Vec<&str> = body["upgrade"]["plans"]
                .as_array()
                .unwrap()
                .iter()
                .map(|plan| plan["id"].as_str().unwrap())
                .collect();
            assert_eq!(offers, ["unlock", "pro_monthly", "pro_yearly"]);
            assert_eq!(
                (&body["reason"], &body["code"]),
                (&json!("grant_expired"), &json!("RESOURCE_LOCKED"))
            );
        }
        over.may("resume_view", "r1").await;
        let resource = over.resource("r1").await;
        assert_eq!(
            (
                &resource["status"],
                &resource["why"],
                &resource["days_left"]
            ),
            (&json!("view_only"), &json!("purchase_expired"), &json!(0))
        );

        // A second purchase pays for another resume; the first stays as it is until it is unlocked.
        over.buys("one_time", "p2", 0, None).await;
        over.may("resumes", "r2").await;
        over.may("ai_generations", "r2").await;
        over.may_not("ai_generations", "r1", EXPIRED).await;
        over.buys("unlock", "u", 0, Some("r1")).await;
        over.may("ai_generations", "r1").await;
        let resource = over.resource("r1").await;
        assert_eq!(
            (&resource["status"], &resource["days_left"]),
            (&json!("active"), &json!(21))
        );
        assert_eq!(
            (
                &resource["grant"],
                &resource["features"]["ai_generations"]["remaining"]
            ),
            (&json!(format!("u-{}", over.name)), &json!(29))
        );
    });
}

#[test]
fn every_refusal_has_the_products_own_body() {
    with_service(|service| async move {
        let user = User::new(service);
        user.may_not(
            "ai_generations",
            "none",
            ("Unknown resume", "There is no such resume.", false),
        )
        .await;
        user.may("resumes", "r1").await;
        assert_eq!(user.resource("r1").await["grant"], "free");
        user.may_not(
            "ai_generations",
            "r1",
            (
                "Upgrade required",
                "Your plan does not include this feature.",
                true,
            ),
        )
        .await;
        user.may("resume_downloads", "r1").await;
        user.may_not(
            "resume_downloads",
            "r1",
            ("Limit reached", "Download limit reached.", true),
        )
        .await;
        user.may_not(
            "resumes",
            "r2",
            ("Limit reached", "Resume limit reached.", true),
        )
        .await;
        user.tell("resource.created", 0, json!({"resource": "r3"}))
            .await;
        user.may_not(
            "resume_edit",
            "r3",
            ("No subscription", "This resume has no subscription.", true),
        )
        .await;
        let unbound = user.resource("r3").await;
        assert_eq!(
            (&unbound["status"], &unbound["why"], &unbound["grant"]),
            (&json!("view_only"), &json!("no_slot"), &json!(null))
        );
        user.tell("resource.deleted", 0, json!({"resource": "r1"}))
            .await;
        user.may_not(
            "resume_view",
            "r1",
            ("Resume deleted", "This resume was deleted.", false),
        )
        .await;
        assert_eq!(user.resource("r1").await["status"], "deleted");
        let again = user.does("resumes", "r1", 1).await;
        assert_eq!(
            again.problem(),
            (409, "resource_deleted".into(), "resource".into())
        );
        // Deleting gave nothing back.
        user.may_not(
            "resumes",
            "r4",
            ("Limit reached", "Resume limit reached.", true),
        )
        .await;

        let payer = User::new(service);
        payer.buys("one_time", "p", 0, None).await;
        payer.may("resumes", "r1").await;
        assert_eq!(payer.does("ai_generations", "r1", 30).await.status, 200);
        payer
            .may_not(
                "ai_generations",
                "r1",
                ("Limit reached", "AI generation limit reached.", true),
            )
            .await;

        let pro = User::new(service);
        pro.buys("pro_monthly", "p", 40 * DAY, None).await;
        pro.tell("resource.created", 39 * DAY, json!({"resource": "r1"}))
            .await;
        pro.may_not(
            "ai_generations",
            "r1",
            (
                "Subscription expired",
                "Your subscription for this resume has ended.",
                true,
            ),
        )
        .await;
        assert_eq!(pro.resource("r1").await["why"], "pro_ended");
        pro.buys("pro_yearly", "y", 0, None).await;
        pro.may("ai_generations", "r1").await;

        for feature in ["resumes", "ai_generations", "resume_view"] {
            let bare = service
                .post(&pro.path("consume"), &json!({"feature": feature}))
                .await;
            assert_eq!(
                bare.problem(),
                (422, "resource_required".into(), "resource".into())
            );
        }
        assert_eq!(
            pro.does("resumes", "r9", 2).await.problem(),
            (422, "invalid_amount".into(), "amount".into())
        );
    });
}

#[test]
fn with_option_a_any_live_purchase_opens_all() {
    with_service(|service| async move {
        let (_, text) = quota_core::catalog::shipped()[2];
        let text = text
            .replace("product = \"resume-builder\"", "product = \"option-a\"")
            .replace("unlock_all = false", "unlock_all = true");
        let put = service
            .request(Method::PUT, "/v1/products/option-a/catalog")
            .bearer_auth(&service.key);
        assert_eq!(
            send(put.header("Content-Type", "application/toml").body(text))
                .await
                .status,
            200
        );
        let user = User {
            product: "option-a",
            ..User::new(service)
        };
        user.buys("one_time", "p", 30 * DAY, None).await;
        user.tell("resource.created", 29 * DAY, json!({"resource": "r1"}))
            .await;
        user.may_not("ai_generations", "r1", EXPIRED).await;
        user.buys("one_time", "p2", 0, None).await;
        user.may("ai_generations", "r1").await;
        assert_eq!(user.resource("r1").await["status"], "active");
    });
}
