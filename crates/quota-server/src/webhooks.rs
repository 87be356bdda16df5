//! Webhooks: what was signed is recorded, found to be known, or held until it can be settled. Nothing is lost in between.
//!
//! What is held waits for a person, or for the payment that it is about to be counted: by another webhook, by a service
//! that publishes the purchase, or by a person. Whichever it is, [`run`] sees it within a moment.

use crate::node::Node;
use quota_core::command::{Address, Answer, Command, Refusal, Wish};
use quota_core::event::Event;
use quota_core::razorpay::{
    CONTESTED, Counted, Notice, UNAVAILABLE, UNKNOWN_PLAN, UNREADABLE, Verdict, Whose,
};
use quota_postgres::{Error, HeldWebhook, NewWebhook};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The time between two looks at what is held.
const PACE: Duration = Duration::from_millis(500);
/// The time between two looks for what has waited too long.
const PURGE_PACE: Duration = Duration::from_secs(600);
/// How many days a webhook is held: bodies have personal data in them.
const HELD_DAYS: i32 = 30;

/// What came of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is in the ledger.
    Recorded,
    /// It was there before, or its payment was.
    Duplicate,
    /// It changes nothing.
    Ignored,
    /// It waits.
    Held,
}

impl Status {
    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::Held => "held",
        }
    }
}

/// What a provider is told of its webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What came of it.
    pub status: Status,
    /// Why, where there is something to explain.
    pub reason: Option<&'static str>,
}

impl Told {
    const fn new(status: Status, reason: Option<&'static str>) -> Self {
        Self { status, reason }
    }
}

/// Takes a webhook whose signature was good.
///
/// # Errors
/// Neither could it be recorded nor held: whoever sent it must send it again.
pub async fn take(node: &Node, product: &str, body: &[u8]) -> Result<Told, Refusal> {
    let unavailable = |error: Error| {
        tracing::error!(product, %error, "a webhook can be neither recorded nor held");
        Refusal::unavailable("nothing can be stored just now; nothing was kept, tell it again")
    };
    let Some(notice) = Notice::read(body) else {
        return hold(node, product, None, UNREADABLE, body)
            .await
            .map_err(unavailable);
    };
    let came = Instant::now();
    let mut verdict = judge(node, product, &notice).await.map_err(unavailable)?;
    if verdict == Verdict::Held(UNKNOWN_PLAN) {
        // Another node may have published it a moment ago.
        match node.shelf.load_since(&node.ledger, came).await {
            Ok(()) => verdict = judge(node, product, &notice).await.map_err(unavailable)?,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, product, "the catalogs cannot be read");
            }
        }
    }
    let told = match carry_out(node, product, &notice, verdict).await {
        Ok(told) => told,
        Err(reason) => hold(node, product, Some(&notice), reason, body)
            .await
            .map_err(unavailable)?,
    };
    if told.status == Status::Recorded {
        // What waited for this payment; where that fails, the next look at what is held does it.
        let (payment, subscription) = (&notice.payment_id, &notice.subscription);
        let about = (payment.as_deref(), subscription.as_deref());
        if let Err(error) = settle(node, Some(product), about).await {
            tracing::warn!(%error, "held webhooks wait a moment longer");
        }
    }
    Ok(told)
}

/// What a notice comes to, by what its product has counted until now.
async fn judge(node: &Node, product: &str, notice: &Notice) -> Result<Verdict, Error> {
    let Some((_, catalog)) = node.shelf.newest(product) else {
        return Ok(Verdict::Held("unknown_product"));
    };
    let counted = counted(node, product, notice).await?;
    Ok(notice.judge(&catalog, &counted, node.clock.now()))
}

/// What a product has counted of what a notice names.
///
/// # Errors
/// The ledger cannot be read.
pub async fn counted(node: &Node, product: &str, notice: &Notice) -> Result<Counted, Error> {
    let (payment, subscription) = (notice.payment_id.as_deref(), notice.subscription.as_deref());
    let found = node.ledger.counted(product, payment, subscription).await?;
    let whose = |(subject, plan)| Whose { subject, plan };
    Ok(Counted {
        payment: found.payment.map(whose),
        subscription: found.subscription.map(whose),
    })
}

/// Carries a verdict out.
///
/// Where another event tells of the same at the same moment, the notice is judged again: it may say more than the one that
/// came first, as the charge of a subscription does whose payment came by itself.
///
/// # Errors
/// Why it has to wait: a stable code.
async fn carry_out(
    node: &Node,
    product: &str,
    notice: &Notice,
    verdict: Verdict,
) -> Result<Told, &'static str> {
    let mut verdict = verdict;
    if let Some((payment, subject)) = counts(&verdict) {
        let claimed = node.ledger.claim_payment(product, payment, subject).await;
        if !claimed.map_err(|_| UNAVAILABLE)? {
            return Err(CONTESTED);
        }
        // Who claimed it before may have counted it since it was looked up.
        verdict = judge_again(node, product, notice).await?;
    }
    let told = match verdict {
        record @ Verdict::Record { .. } => record_once(node, product, record).await?,
        other => return plainly(other),
    };
    if let Some(told) = told {
        return Ok(told);
    }
    let told = match judge_again(node, product, notice).await? {
        record @ Verdict::Record { .. } => record_once(node, product, record).await?,
        _ => None,
    };
    Ok(told.unwrap_or(Told::new(Status::Duplicate, Some("already_recorded"))))
}

async fn judge_again(node: &Node, product: &str, notice: &Notice) -> Result<Verdict, &'static str> {
    let verdict = judge(node, product, notice).await;
    verdict.map_err(|_| UNAVAILABLE)
}

/// The payment that a verdict counts, and for whom.
fn counts(verdict: &Verdict) -> Option<(&str, &str)> {
    let Verdict::Record {
        subject,
        fact,
        counted: false,
    } = verdict
    else {
        return None;
    };
    match &fact.event {
        Event::SubscriptionPurchased(bought) | Event::SubscriptionRenewed(bought) => {
            Some((&bought.payment_id, subject))
        }
        _ => None,
    }
}

/// What a verdict that records nothing comes to.
fn plainly(verdict: Verdict) -> Result<Told, &'static str> {
    match verdict {
        Verdict::Counted => Ok(Told::new(Status::Duplicate, Some("payment_counted"))),
        Verdict::Ignored(reason) => Ok(Told::new(Status::Ignored, Some(reason))),
        Verdict::Held(reason) => Err(reason),
        Verdict::Record { .. } => Err(UNAVAILABLE),
    }
}

/// Records a verdict's fact; none where another event has told of the same a moment ago, in its own words.
async fn record_once(
    node: &Node,
    product: &str,
    verdict: Verdict,
) -> Result<Option<Told>, &'static str> {
    let Verdict::Record {
        subject,
        fact,
        counted,
    } = verdict
    else {
        return Err(UNAVAILABLE);
    };
    let command = Command {
        address: Address::new(product, &subject, node.partitions()),
        wish: Wish::Record(*fact),
    };
    match node.writer.submit(command).await {
        Answer::Recorded {
            duplicate: true, ..
        } => Ok(Some(Told::new(Status::Duplicate, Some("already_recorded")))),
        Answer::Recorded { .. } if counted => {
            Ok(Some(Told::new(Status::Duplicate, Some("payment_counted"))))
        }
        Answer::Recorded { .. } => Ok(Some(Told::new(Status::Recorded, None))),
        Answer::Refused(refusal) if refusal.code == "idempotency_conflict" => Ok(None),
        Answer::Refused(refusal) if matches!(refusal.status, 503 | 504) => Err(UNAVAILABLE),
        Answer::Refused(refusal) => Err(refusal.code),
        other => {
            tracing::error!(?other, "an answer that makes no sense");
            Err(UNAVAILABLE)
        }
    }
}

async fn hold(
    node: &Node,
    product: &str,
    notice: Option<&Notice>,
    reason: &'static str,
    body: &[u8],
) -> Result<Told, Error> {
    let webhook = NewWebhook {
        product,
        event: notice.map_or("", |notice| &notice.event),
        payment_id: notice.and_then(|notice| notice.payment_id.as_deref()),
        subscription: notice.and_then(|notice| notice.subscription.as_deref()),
        subject: notice.and_then(|notice| notice.subject.as_deref()),
        reason,
        body,
    };
    let (id, resolution) = node.ledger.hold_webhook(&webhook).await?;
    if resolution.is_some() {
        // A person has dealt with this very body.
        return Ok(Told::new(Status::Ignored, Some("resolved_before")));
    }
    metrics::counter!("quota_webhooks_held_total", "product" => product.to_owned(), "reason" => reason)
        .increment(1);
    tracing::warn!(product, %id, reason, "a webhook is held; `quota-ledger webhook list` shows it");
    Ok(Told::new(Status::Held, Some(reason)))
}

/// Settles what is held and needs nobody any more: of one product, or all; about one payment and subscription, or all.
///
/// # Errors
/// What is held cannot be read or marked; nothing is lost by that.
pub async fn settle(
    node: &Node,
    product: Option<&str>,
    (payment, subscription): (Option<&str>, Option<&str>),
) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = node
            .ledger
            .ripe_webhooks(product, payment, subscription, after.as_ref())
            .await?;
        for (webhook, counted) in &page {
            settle_one(node, webhook, *counted).await?;
        }
        match page.into_iter().next_back() {
            Some((last, _)) => after = Some(last),
            None => return Ok(()),
        }
    }
}

async fn settle_one(node: &Node, webhook: &HeldWebhook, counted: bool) -> Result<(), Error> {
    let body = webhook.body.as_deref().unwrap_or_default();
    let product = webhook.product.as_str();
    let settled = match Notice::read(body) {
        None => Err(UNREADABLE),
        Some(notice) => match judge(node, product, &notice).await? {
            Verdict::Counted => Ok("counted"),
            Verdict::Ignored(reason) => Ok(reason),
            Verdict::Held(_) if counted => Ok("counted"),
            Verdict::Held(reason) => Err(reason),
            record @ Verdict::Record { .. } => carry_out(node, product, &notice, record)
                .await
                .map(|told| told.status.word()),
        },
    };
    match settled {
        Ok(resolution) => {
            node.ledger.resolve_webhook(webhook.id, resolution).await?;
            tracing::info!(id = %webhook.id, product, resolution, "a held webhook is settled");
        }
        Err(reason) if reason != webhook.reason => {
            node.ledger.explain_webhook(webhook.id, reason).await?;
        }
        Err(_) => {}
    }
    Ok(())
}

/// Settles what is held and needs nobody any more, and gives up what has waited too long, until it is told to stop.
pub async fn run(node: Node, stop: CancellationToken) {
    let mut away = false;
    let mut purged: Option<Instant> = None;
    loop {
        if purged.is_none_or(|purged| purged.elapsed() >= PURGE_PACE) {
            purged = Some(Instant::now());
            purge(&node).await;
        }
        match look(&node).await {
            Ok(()) => away = false,
            Err(error) if !std::mem::replace(&mut away, true) => {
                tracing::warn!(%error, "held webhooks cannot be read");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PACE) => {}
        }
    }
}

async fn look(node: &Node) -> Result<(), Error> {
    settle(node, None, (None, None)).await?;
    let held = node.ledger.count_held_webhooks().await?;
    for product in node.shelf.products() {
        let count = held
            .iter()
            .find(|(name, _)| **name == *product)
            .map_or(0, |(_, count)| *count);
        metrics::gauge!("quota_webhooks_held", "product" => product.to_string()).set(count as f64);
    }
    Ok(())
}

async fn purge(node: &Node) {
    match node.ledger.expire_webhooks(HELD_DAYS).await {
        Ok(0) => {}
        Ok(count) => {
            metrics::counter!("quota_webhooks_expired_total").increment(count);
            tracing::error!(
                count,
                days = HELD_DAYS,
                "webhooks that nobody resolved are given up"
            );
        }
        Err(error) => tracing::warn!(%error, "held webhooks cannot be purged"),
    }
    if let Err(error) = node.ledger.forget_claims().await {
        tracing::warn!(%error, "old claims on payments cannot be forgotten");
    }
}
