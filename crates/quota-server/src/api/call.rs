//! One call, as its handler sees it: who calls, what about, and with which body.

use crate::api::Shared;
use crate::api::problem::Problem;
use axum::body::Bytes;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequest, FromRequestParts as _, RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use quota_core::door::{MAX_NAME, MAX_UNITS, is_visible};
use quota_core::position::{InvalidPosition, Position};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// What a handler gives back.
pub type Outcome = Result<Response, Problem>;

/// A call. Nothing of it is checked until a handler asks for it.
pub struct Call {
    /// What all calls share.
    pub app: Shared,
    /// The request's head.
    pub parts: Parts,
    /// Its whole body.
    pub body: Bytes,
    /// None where no route has the path.
    params: Option<RawPathParams>,
}

impl FromRequest<Shared> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let params = RawPathParams::from_request_parts(&mut parts, app).await;
        let params = match params {
            Ok(params) => Some(params),
            Err(RawPathParamsRejection::MissingPathParams(_)) => None,
            Err(_) => {
                let detail = "the path is not UTF-8 under its percent-encoding";
                return Err(Problem::malformed(detail));
            }
        };
        // The connection has read and measured it already.
        let body = axum::body::to_bytes(body, usize::MAX)
            .await
            .map_err(|_| Problem::internal())?;
        Ok(Self {
            app: app.clone(),
            parts,
            body,
            params,
        })
    }
}

impl Call {
    /// A segment of the path.
    ///
    /// # Errors
    /// It breaks the rule for names.
    pub fn name(&self, param: &'static str) -> Result<&str, Problem> {
        let value = self.raw(param);
        visible(value).map_err(|why| Problem::invalid(param, why))?;
        Ok(value)
    }

    /// A segment of the path, as it came.
    #[must_use]
    pub fn raw(&self, param: &str) -> &str {
        self.params
            .iter()
            .flatten()
            .find(|(name, _)| *name == param)
            .map_or("", |(_, value)| value)
    }

    /// A header's value; none where there is no such header.
    ///
    /// # Errors
    /// It stands there twice, or is not UTF-8.
    pub fn header(&self, name: &'static str) -> Result<Option<&str>, Problem> {
        let mut values = self.parts.headers.get_all(name).iter();
        let (Some(value), second) = (values.next(), values.next()) else {
            return Ok(None);
        };
        if second.is_some() {
            return Err(Problem::invalid(
                name,
                "this header stands in the request twice",
            ));
        }
        let text = std::str::from_utf8(value.as_bytes());
        text.map(Some)
            .map_err(|_| Problem::invalid(name, "this header is not UTF-8"))
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 400 for what is no JSON, 422 with the field for what is not of the right shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        read_json(&self.body)
    }

    /// The parameters after the question mark.
    ///
    /// # Errors
    /// 422 for one that is not among `known` or stands there twice; 400 for wrong percent-encoding.
    pub fn query<const N: usize>(
        &self,
        known: [&'static str; N],
    ) -> Result<[Option<String>; N], Problem> {
        read_query(self.parts.uri.query().unwrap_or_default(), known)
    }
}

/// Checks the rule for names: 1 to 128 visible characters, no space at the ends.
///
/// # Errors
/// It is broken.
pub fn visible(name: &str) -> Result<(), &'static str> {
    if is_visible(name, MAX_NAME) {
        Ok(())
    } else {
        Err("must be 1 to 128 visible characters, without a space at its ends")
    }
}

/// Reads JSON. What is good is read once; only what is not is read again, to say what is wrong with it.
///
/// # Errors
/// 400 for what is no JSON, 422 with the field for what is not of the right shape.
pub fn read_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Problem> {
    // Our shapes are objects: an array of their members in order would be taken for one.
    if text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(match serde_json::from_slice::<serde_json::Value>(text) {
            Ok(_) => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_request",
                "the body must be a JSON object",
            ),
            Err(error) => Problem::malformed(format!("this is no JSON: {error}")),
        });
    }
    serde_json::from_slice(text).map_err(|_| json_problem::<T>(text))
}

fn json_problem<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Problem {
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(text) {
        return Problem::malformed(format!("this is no JSON: {error}"));
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut reader) else {
        return Problem::internal();
    };
    let path = error.path().to_string();
    let error = error.into_inner();
    if error.is_syntax() || error.is_eof() {
        return Problem::malformed(format!("this is no JSON: {error}"));
    }
    let detail = error.to_string();
    let detail = detail.split(" at line ").next().unwrap_or_default();
    // A missing member has no place of its own; the message names it.
    let missing = detail
        .strip_prefix("missing field `")
        .and_then(|rest| rest.strip_suffix('`'));
    match (path.as_str(), missing) {
        (".", Some(member)) => Problem::invalid(member.to_owned(), "this member is missing"),
        (_, Some(member)) => Problem::invalid(format!("{path}.{member}"), "this member is missing"),
        (".", None) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail),
        (_, None) => Problem::invalid(path, detail),
    }
}

/// The parameters of a query.
///
/// # Errors
/// 422 for one that is not among `known` or stands there twice; 400 for wrong percent-encoding.
pub fn read_query<const N: usize>(
    query: &str,
    known: [&'static str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        let place = known.iter().position(|known| *known == name);
        let Some(slot) = place.and_then(|place| values.get_mut(place)) else {
            return Err(Problem::invalid(
                name,
                format!("unknown parameter; there are {}", known.join(", ")),
            ));
        };
        if slot.replace(decoded(value)?).is_some() {
            return Err(Problem::invalid(
                name,
                "this parameter stands in the query twice",
            ));
        }
    }
    Ok(values)
}

/// Undoes percent-encoding and `+`.
fn decoded(text: &str) -> Result<String, Problem> {
    let wrong = || Problem::malformed("the query's percent-encoding is wrong");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next().unwrap_or_default()).to_digit(16);
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// Reads a whole number of units: 1 to 1,000,000,000, by default 1.
///
/// # Errors
/// It is none.
pub fn amount(given: Option<&str>) -> Result<i64, Problem> {
    let amount = given
        .map_or(Ok(1), str::parse)
        .map_err(|_| Problem::invalid("amount", "must be a whole number"))?;
    within_amounts(amount)
}

/// Checks the rule for amounts.
///
/// # Errors
/// It is below 1 or above 1,000,000,000.
pub fn within_amounts(amount: i64) -> Result<i64, Problem> {
    if (1..=MAX_UNITS).contains(&amount) {
        Ok(amount)
    } else {
        Err(Problem::invalid(
            "amount",
            format!("must be from 1 to {MAX_UNITS}"),
        ))
    }
}

/// Reads a position that an answer must not be older than.
///
/// # Errors
/// It is no position.
pub fn at_least(given: Option<&str>) -> Result<Option<Position>, Problem> {
    let position: Result<Option<Position>, _> = given.map(str::parse).transpose();
    // Before the first event there is nothing to wait for.
    let position = position.and_then(|position| match position {
        Some(Position { offset: ..0, .. }) => Err(InvalidPosition),
        position => Ok(position),
    });
    position.map_err(|error| Problem::field("invalid_position", "at_least", format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape is tested")]
    struct Shape {
        word: String,
        #[serde(default)]
        inner: Vec<Shape>,
    }

    #[test]
    fn what_is_wrong_with_a_body_is_named() {
        let problem = |text: &str| {
            let problem = read_json::<Shape>(text.as_bytes()).unwrap_err();
            let item = problem.as_item();
            (
                problem.status().as_u16(),
                item.field.unwrap_or_default().to_owned(),
            )
        };
        for malformed in ["", "{", "{\"word\": 1, x}", "{\"word\": \"a\"} x", "\u{ff}"] {
            assert_eq!(problem(malformed), (400, String::new()), "{malformed}");
        }
        assert_eq!(problem("[]"), (422, String::new()));
        assert_eq!(problem("{\"word\": 1}"), (422, "word".into()));
        assert_eq!(problem("{}"), (422, "word".into()));
        assert_eq!(
            problem("{\"word\": \"a\", \"other\": 1}"),
            (422, "other".into())
        );
        assert_eq!(
            problem("{\"word\": \"a\", \"inner\": [{}]}"),
            (422, "inner[0].word".into())
        );
    }

    #[test]
    fn a_query_is_read_once_and_whole() {
        let read = |text| read_query(text, ["feature", "amount"]);
        let [feature, amount] = read("feature=a%20b+c&amount=3").unwrap();
        assert_eq!(
            (feature.as_deref(), amount.as_deref()),
            (Some("a b c"), Some("3"))
        );
        assert_eq!(read("").unwrap(), [None, None]);
        for bad in [
            "feature=1&feature=2",
            "other=1",
            "feature=%zz",
            "feature=%e",
            "feature=%ff",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
