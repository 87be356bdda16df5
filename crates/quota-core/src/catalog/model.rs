//! A catalog as its author writes it; the JSON Schema is generated from these types.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// One product's plans, gates, routes and messages.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The product.
    pub product: String,
    /// The IANA time zone of its days, months and billing periods.
    pub time_zone: String,
    /// Any live paid plan opens every resource (option A), instead of those it paid for alone.
    #[serde(default)]
    pub unlock_all: bool,
    /// When free usage starts anew at zero.
    #[serde(default)]
    pub restart: Restart,
    /// What is metered or switched.
    #[serde(default)]
    pub features: BTreeMap<String, Feature>,
    /// Plans; the one of rank 0 is everybody's default.
    #[serde(default)]
    pub plans: BTreeMap<String, Plan>,
    /// Answers to refusals, by closure (`purchase_expired` and the like) or by reason.
    #[serde(default)]
    pub denials: BTreeMap<String, Denial>,
    /// Sessions that the product's clients open, by type, at `/api/v1/<product>/sessions`.
    #[serde(default)]
    pub sessions: BTreeMap<String, Session>,
    /// What a gateway asks about, by method and path.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The page of the product's own usage endpoint.
    #[serde(default)]
    pub usage_page: Option<UsagePage>,
    /// How payments become purchases.
    #[serde(default)]
    pub payments: Payments,
}

/// When free usage starts anew at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// Where a paid plan came to its natural end and none was left.
    AfterPaid,
}

/// A feature.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// What a person reads when its limit is reached.
    #[serde(default)]
    pub message: Option<String>,
    /// Whether plans limit it; what is not metered is never limited.
    #[serde(default = "yes")]
    pub metered: bool,
    /// What it has to do with resources.
    #[serde(default)]
    pub resource: ResourceUse,
    /// Goes on while the resource is closed for other work.
    #[serde(default)]
    pub view_only: bool,
    /// Whose counter it is.
    #[serde(default)]
    pub counted: Counted,
    /// Completed resources are its usage; it cannot be consumed.
    #[serde(default)]
    pub completions: Option<Completions>,
    /// A prompt that goes with an allowed answer.
    #[serde(default)]
    pub prompt: Option<Prompt>,
    /// No longer offered; a published feature is never removed.
    #[serde(default)]
    pub retired: bool,
}

/// What a feature has to do with resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResourceUse {
    /// Nothing; a resource named is kept with the usage.
    #[default]
    None,
    /// One unit makes one resource, in a slot of the grant that pays for it.
    Makes,
    /// It is used on a resource, and counts where that resource's grant counts.
    On,
}

/// Whose counter a feature's is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Each grant's own.
    #[default]
    Grant,
    /// The subject's, whatever grants come and go.
    Subject,
}

/// Which completed resources count as usage.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Completions {
    /// Those of this source.
    pub source: String,
}

/// A prompt for a user interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// The plan in force for which it is shown.
    pub plan: String,
    /// Its name.
    pub name: String,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Of several live plans the highest rank holds; without a rank it is never the plan in force.
    #[serde(default)]
    pub rank: Option<u32>,
    /// Price in the currency's smallest unit; none for any amount.
    #[serde(default)]
    pub price: Option<i64>,
    /// ISO 4217.
    #[serde(default)]
    pub currency: Option<String>,
    /// `month`, `year`, `open`, or `<n> days`; none for the plan of rank 0.
    #[serde(default)]
    pub period: Option<Period>,
    /// Days for which a recurring plan goes on after its end; 1 by default.
    #[serde(default)]
    pub grace_days: Option<u32>,
    /// Every purchase is a grant of its own, beside the others.
    #[serde(default)]
    pub stacks: bool,
    /// Which resources it opens.
    #[serde(default)]
    pub opens: Opens,
    /// What it allows, by feature; a metered feature that is not here is not in the plan.
    #[serde(default)]
    pub limits: BTreeMap<String, Limit>,
    /// No longer sold; a published plan is never removed.
    #[serde(default)]
    pub retired: bool,
}

/// Which resources a plan opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Opens {
    /// Those that it paid for.
    #[default]
    Own,
    /// Every one, while it lives.
    All,
    /// The one named in the purchase, and it sells no slot.
    Named,
}

/// What a plan allows of a feature.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Units per window.
    #[serde(default)]
    pub limit: Option<i64>,
    /// No limit; instead of `limit`.
    #[serde(default)]
    pub unlimited: bool,
    /// When counting starts anew.
    #[serde(default)]
    pub window: Window,
}

/// When a counter starts anew.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Never.
    #[default]
    Lifetime,
    /// At midnight in the product's zone.
    Day,
    /// At the first of the month in the product's zone.
    Month,
    /// With the grant's billing period.
    Period,
}

impl Window {
    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::Day => "day",
            Self::Month => "month",
            Self::Period => "period",
        }
    }
}

/// How long one payment lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A calendar month in the product's zone, the day clamped to the month's length.
    Month,
    /// A calendar year likewise.
    Year,
    /// That many times 24 hours, once.
    Days(u32),
    /// Until its optional `ends_at`, or a cancellation.
    Open,
}

impl Period {
    /// Whether it is paid again and again.
    #[must_use]
    pub const fn recurs(self) -> bool {
        matches!(self, Self::Month | Self::Year)
    }

    /// The words in offers: `month`, `year`, `21 days`; none for an open one.
    #[must_use]
    pub fn words(self) -> Option<String> {
        match self {
            Self::Month => Some("month".to_owned()),
            Self::Year => Some("year".to_owned()),
            Self::Days(days) => Some(format!("{days} days")),
            Self::Open => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "month" => Some(Self::Month),
            "year" => Some(Self::Year),
            "open" => Some(Self::Open),
            _ => {
                let days = text
                    .strip_suffix(" days")
                    .or_else(|| text.strip_suffix(" day"))?;
                days.parse()
                    .ok()
                    .filter(|days| (1..=36_500).contains(days))
                    .map(Self::Days)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom("a period is month, year, open, or <n> days"))
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.words().unwrap_or_else(|| "open".to_owned()))
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "How long one payment lasts: month, year, open, or <n> days",
            "type": "string",
            "pattern": "^(month|year|open|[1-9][0-9]{0,4} days?)$"
        })
    }
}

/// The answer to a refusal.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// The HTTP status: 402 or 403.
    pub status: u16,
    /// What a person reads; by default the feature's message, or a plain sentence.
    #[serde(default)]
    pub message: Option<String>,
    /// JSON text of the product's own body. A string `$message`, `$feature`, `$code`, `$used`, `$limit`, `$plan` or
    /// `$upgrade_plans` stands for that value; an unlimited `$limit` is -1, also in the plans.
    #[serde(default)]
    pub body: Option<String>,
}

/// A type of session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The feature that gates a new one.
    pub feature: String,
    /// The source of resources that come of it.
    pub source: String,
}

/// A gated route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The HTTP method, in capitals.
    pub method: String,
    /// The path, exactly.
    pub path: String,
    /// The feature that a request spends.
    pub feature: String,
    /// Hold for that many seconds instead of consuming at once.
    #[serde(default)]
    pub hold_seconds: Option<u32>,
}

/// The product's own usage page.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UsagePage {
    /// Its path, which no other product may have.
    pub path: String,
    /// The features on it, in order.
    pub features: Vec<String>,
}

/// How payments become purchases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Payments {
    /// Razorpay's plan ids, and the plans that they pay for.
    #[serde(default)]
    pub razorpay_plans: BTreeMap<String, String>,
}

const fn yes() -> bool {
    true
}
