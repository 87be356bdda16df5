//! Admission: an envelope becomes a fact about a subject, or is refused with the member that is wrong.

use super::envelope::{Data, Envelope, is_json};
use super::fact::not_ahead;
use super::{MAX_EVENT_BYTES, MAX_NAME, Members, Rejection, clip, data, json};
use crate::catalog::Catalog;
use crate::command::Fact;
use crate::event;
use crate::time::Timestamp;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::LazyLock;

/// The code of what can be read but is no event that we take; its field says where.
pub(super) const INVALID: &str = "invalid_event";

/// Judges an envelope that came in for a product, under that product's catalog, at `now`.
///
/// Codes: `event_too_large`; `invalid_event` with the member that is wrong; `wrong_product`; `in_future`;
/// `unknown_feature`; `unknown_plan`; `resource_required`.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn admit(
    envelope: &Envelope,
    product: &str,
    catalog: &Catalog,
    now: Timestamp,
) -> Result<(String, Fact), Rejection> {
    if envelope.size > MAX_EVENT_BYTES {
        let message = format!(
            "an event has at most {MAX_EVENT_BYTES} bytes, this one has {}",
            envelope.size
        );
        return Err(Rejection::whole("event_too_large", message));
    }
    let mut attributes = Members::new(&envelope.attributes, INVALID, "");
    let version = attributes.text("specversion", MAX_NAME)?;
    if attributes.required("specversion", version)? != "1.0" {
        return Err(attributes.reject("specversion", "must be 1.0"));
    }
    let id = attributes.text("id", MAX_NAME)?;
    let id = attributes.required("id", id)?;
    let source = source(&mut attributes)?;
    let name = event_type(&mut attributes)?;
    let subject = attributes.text("subject", MAX_NAME)?;
    let subject = attributes.required("subject", subject)?;
    same_product(&mut attributes, product)?;
    let time = attributes.time("time")?;
    not_ahead(time, now)?;
    let members = members(envelope, &mut attributes, name)?;
    let judge = data::Judge { catalog, time };
    let event = judge.read(name, &members)?;
    let fact = Fact {
        source,
        id,
        time,
        event,
    };
    Ok((subject, fact))
}

fn source(attributes: &mut Members<'_>) -> Result<String, Rejection> {
    let source = attributes.text("source", MAX_NAME)?;
    let source = attributes.required("source", source)?;
    let reserved = source
        .get(..6)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("quota:"));
    if reserved {
        return Err(attributes.reject(
            "source",
            "must not begin with quota:, which names this service's own events",
        ));
    }
    if !is_uri_reference(&source) {
        return Err(attributes.reject(
            "source",
            "must be a URI reference, for example /resume-api or https://example.com/resume-api",
        ));
    }
    Ok(source)
}

/// Whether a text has only what RFC 3986 lets stand in a URI reference.
fn is_uri_reference(text: &str) -> bool {
    let mut bytes = text.bytes();
    let mut fragments = 0;
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => [bytes.next(), bytes.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            b'#' => {
                fragments += 1;
                fragments == 1
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=".contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// Every bare type, and whether services may publish it; their schemas cost too much to be made for each event.
static TYPES: LazyLock<Vec<(&'static str, bool)>> = LazyLock::new(|| {
    let types = event::types().into_iter();
    types
        .map(|(name, published, _)| (name, published))
        .collect()
});

/// The bare type, of those that a service may publish.
fn event_type(attributes: &mut Members<'_>) -> Result<&'static str, Rejection> {
    let text = attributes.text("type", MAX_NAME)?;
    let text = attributes.required("type", text)?;
    let bare = text
        .strip_prefix("quota.")
        .and_then(|rest| rest.strip_suffix(".v1"));
    match TYPES.iter().find(|(name, _)| Some(*name) == bare) {
        Some((name, true)) => Ok(name),
        Some((name, false)) => {
            let rule = format!("is no type that may be published: this service itself adds {name}");
            Err(attributes.reject("type", rule))
        }
        None => {
            let published = TYPES.iter().filter(|(_, published)| *published);
            let names: Vec<String> = published
                .map(|(name, _)| format!("quota.{name}.v1"))
                .collect();
            let rule = format!(
                "is not known: {:?}; there are {}",
                clip(&text, 64),
                names.join(", ")
            );
            Err(attributes.reject("type", rule))
        }
    }
}

fn same_product(attributes: &mut Members<'_>, product: &str) -> Result<(), Rejection> {
    match attributes.text("product", MAX_NAME)? {
        Some(other) if other != product => {
            let message =
                format!("this event says it is of product {other:?}, and was sent to {product:?}");
            Err(Rejection::field("wrong_product", "product", message))
        }
        _ => Ok(()),
    }
}

/// The members of `data`; of a type that has none, `data` may be left out.
fn members<'e>(
    envelope: &'e Envelope,
    attributes: &mut Members<'_>,
    name: &str,
) -> Result<Cow<'e, Map<String, Value>>, Rejection> {
    let content_type = attributes.text("datacontenttype", super::MAX_WORDS)?;
    let foreign = content_type.is_some_and(|content_type| !is_json(&content_type));
    if foreign || matches!(envelope.data, Data::Foreign) {
        return Err(attributes.reject("datacontenttype", "must be application/json"));
    }
    let members = match &envelope.data {
        Data::Json(Value::Object(members)) => Some(Cow::Borrowed(members)),
        Data::Json(_) => None,
        Data::Base64 { value, beside } => match decoded(attributes, value, *beside)? {
            Value::Object(members) => Some(Cow::Owned(members)),
            _ => None,
        },
        Data::Absent if name == "subject.registered" => Some(Cow::Owned(Map::new())),
        Data::Absent | Data::Foreign => return Err(attributes.reject("data", "is missing")),
    };
    members.ok_or_else(|| attributes.reject("data", "must be a JSON object"))
}

/// What `data_base64` holds, which has to be JSON too.
fn decoded(attributes: &Members<'_>, value: &Value, beside: bool) -> Result<Value, Rejection> {
    if beside {
        return Err(attributes.reject("data_base64", "stands beside data; send one of them"));
    }
    let bytes = value.as_str().and_then(base64);
    let bytes = bytes.ok_or_else(|| attributes.reject("data_base64", "is not Base64"))?;
    json::parse(&bytes)
        .map_err(|fault| attributes.reject("data_base64", format!("holds no JSON: {fault}")))
}

/// Decodes Base64 with the standard alphabet and its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut pending, mut bits) = (0_u32, 0_u32);
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == digit)?;
        pending = pending << 6 | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(pending >> bits & 0xff).ok()?);
            pending &= (1 << bits) - 1;
        }
    }
    // Bits left over are zero in what an encoder wrote.
    (pending == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_strictly() {
        let cases: [(&str, &[u8]); 5] = [
            ("", b""),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("/+8A", b"\xff\xef\0"),
        ];
        for (text, bytes) in cases {
            assert_eq!(base64(text).as_deref(), Some(bytes), "{text}");
        }
        for text in [
            "Z", "Zg", "Zg=", "Zh==", "Z===", "====", "Zm9v\n", "Zm-_", "Zg==Zg==",
        ] {
            assert_eq!(base64(text), None, "{text}");
        }
    }

    #[test]
    fn sources_are_uri_references() {
        for text in [
            "/a",
            "urn:x:y",
            "https://e.com/a?b=c#d",
            "a%20b",
            "resume-api",
            "//[::1]:80/",
        ] {
            assert!(is_uri_reference(text), "{text}");
        }
        for text in [
            "a b", "a%2", "%zz", "a#b#c", "ä", "<a>", "a\\b", "a\"b", "^",
        ] {
            assert!(!is_uri_reference(text), "{text}");
        }
    }
}
