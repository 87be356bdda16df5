//! Webhooks of payment providers: who signed them, and what came of them.

use crate::api::call::{Call, Outcome};
use crate::api::json;
use crate::api::problem::{Problem, ProblemBody};
use crate::webhooks::{Told, take};
use axum::http::StatusCode;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use utoipa::ToSchema;

/// The header that a webhook is signed in.
const SIGNATURE: &str = "X-Razorpay-Signature";

/// What came of a webhook.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct WebhookBody {
    /// `recorded`, `duplicate`, `ignored` or `held`.
    #[schema(example = "recorded")]
    status: &'static str,
    /// Why it is ignored, held or a duplicate: a stable code.
    reason: Option<&'static str>,
}

/// What Razorpay tells of a payment. It is counted once, whichever events tell of it, in whatever order.
///
/// A good signature gets 200, whatever the body holds: what cannot be understood is held for a person. Only while nothing
/// can be stored at all it gets 503, and Razorpay tells it again.
#[utoipa::path(
    post,
    path = "/v1/products/{product}/webhooks/razorpay",
    tag = "webhooks",
    params(
        ("product" = String, Path, description = "The product"),
        ("X-Razorpay-Signature" = String, Header, description = "HMAC-SHA256 of the body, in hex"),
    ),
    request_body(content = Object, content_type = "application/json"),
    responses(
        (status = 200, body = WebhookBody),
        (status = 401, body = ProblemBody<'_>, description = "`bad_signature`; nothing is kept"),
        (status = 503, body = ProblemBody<'_>, description = "`unavailable`: nothing is kept, tell it again"),
    ),
    security(()),
)]
pub async fn razorpay(call: Call) -> Outcome {
    let product = call.name("product").map_err(|_| forged())?;
    let service = &call.app.service;
    // A product that is not there has no secrets either, and looks the same from outside.
    let secrets = service.razorpay_secrets(product);
    let signature = call.header(SIGNATURE).ok().flatten().unwrap_or_default();
    if !signed(&secrets, signature, &call.body) {
        metrics::counter!("quota_webhooks_total", "status" => "forged").increment(1);
        return Err(forged());
    }
    let Told { status, reason } = take(&service.node(), product, &call.body).await?;
    let status = status.word();
    metrics::counter!("quota_webhooks_total", "status" => status).increment(1);
    Ok(json(StatusCode::OK, &WebhookBody { status, reason }))
}

fn forged() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "bad_signature",
        format!("{SIGNATURE} must be the HMAC-SHA256 of the body under a secret of this product"),
    )
}

/// Whether one of the secrets made this signature; compared in constant time.
fn signed(secrets: &[String], signature: &str, body: &[u8]) -> bool {
    let Ok(signature) = hex::decode(signature) else {
        return false;
    };
    secrets.iter().any(|secret| {
        Hmac::<Sha256>::new_from_slice(secret.as_bytes())
            .is_ok_and(|mac| mac.chain_update(body).verify_slice(&signature).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2; any of several secrets may have signed.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let good = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let body = b"what do ya want for nothing?";
        let secrets = ["old".to_owned(), "Jefe".to_owned()];
        assert!(signed(&secrets, good, body));
        assert!(signed(&secrets, &good.to_uppercase(), body));
        assert!(!signed(&secrets[..1], good, body));
        assert!(!signed(&[], good, body));
        assert!(!signed(&secrets, good, b"what do ya want for nothing!"));
        for wrong in ["", "5bdc", "zz", &good[2..], &format!("{good}00")] {
            assert!(!signed(&secrets, wrong, body), "{wrong}");
        }
    }
}
