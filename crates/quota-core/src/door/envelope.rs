//! Envelopes: CloudEvents 1.0 as they come in, over HTTP or Kafka, alone or in batches. Read, not yet judged.

use super::{MAX_BATCH, Rejection, json};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Attributes without which nothing is a `CloudEvent`.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// A `CloudEvent` that was read; [`super::admit`] judges it.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Attributes by name, extensions too; absent ones and nulls are not here.
    pub(super) attributes: Map<String, Value>,
    pub(super) data: Data,
    /// Bytes as received: of the event's JSON, in binary mode of the data.
    pub(super) size: usize,
}

/// The data of an envelope.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// There is none.
    Absent,
    /// JSON.
    Json(Value),
    /// The text of `data_base64`, and whether there was `data` beside it.
    Base64 { value: Value, beside: bool },
    /// Bytes that their content type does not call JSON.
    Foreign,
}

impl Envelope {
    /// The event's id, where it has one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.attributes.get("id").and_then(Value::as_str)
    }

    /// An envelope with these attributes, unless it is no `CloudEvent` at all.
    fn new(attributes: Map<String, Value>, data: Data, size: usize) -> Result<Self, Rejection> {
        if REQUIRED.iter().any(|name| attributes.contains_key(*name)) {
            Ok(Self {
                attributes,
                data,
                size,
            })
        } else {
            Err(Rejection::malformed(
                "this is no CloudEvent: it has none of specversion, id, source and type; send one as \
                 application/cloudevents+json, or its attributes as headers",
            ))
        }
    }
}

/// How a message carries its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The whole event is the body, in JSON.
    Structured,
    /// The body is a JSON array of events.
    Batch,
    /// The attributes are headers, the body is the data.
    Binary,
    /// An event in a format that we do not read.
    Unsupported,
}

/// The mode that a content type tells.
#[must_use]
pub fn mode(content_type: Option<&str>) -> Mode {
    let media_type = content_type.map(media_type).unwrap_or_default();
    match media_type.as_str() {
        "application/cloudevents+json" => Mode::Structured,
        "application/cloudevents-batch+json" => Mode::Batch,
        other if other.starts_with("application/cloudevents") => Mode::Unsupported,
        _ => Mode::Binary,
    }
}

/// A content type without its parameters, in small letters.
fn media_type(content_type: &str) -> String {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().to_ascii_lowercase()
}

/// Whether a content type calls its bytes JSON.
pub(super) fn is_json(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    let subtype = media_type.split_once('/').map(|(_, subtype)| subtype);
    subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// Reads one event in structured mode.
///
/// # Errors
/// Code `malformed`: no JSON object, a member twice, nested too deep, or no `CloudEvent` at all.
pub fn parse_structured(bytes: &[u8]) -> Result<Envelope, Rejection> {
    let Value::Object(mut members) = json::parse(bytes)? else {
        return Err(Rejection::malformed("an event is a JSON object"));
    };
    let data = members.shift_remove("data");
    let encoded = members.shift_remove("data_base64");
    let data = match (data, encoded.filter(|value| !value.is_null())) {
        (data, Some(value)) => Data::Base64 {
            value,
            beside: data.is_some(),
        },
        (Some(data), None) => Data::Json(data),
        (None, None) => Data::Absent,
    };
    members.retain(|_, value| !value.is_null());
    Envelope::new(members, data, bytes.trim_ascii().len())
}

/// Reads a batch; each event is read, or refused, for itself.
///
/// # Errors
/// Of the whole: code `malformed` for what is no JSON array, `batch_too_large` for more than 1,000 events.
pub fn parse_batch(bytes: &[u8]) -> Result<Vec<Result<Envelope, Rejection>>, Rejection> {
    let elements: Vec<&RawValue> = serde_json::from_slice(bytes).map_err(|error| {
        Rejection::malformed(format!("a batch is a JSON array of events: {error}"))
    })?;
    if elements.len() > MAX_BATCH {
        let message = format!("a batch holds at most {MAX_BATCH} events; send several");
        return Err(Rejection::whole("batch_too_large", message));
    }
    let events = elements.into_iter();
    Ok(events
        .map(|event| parse_structured(event.get().as_bytes()))
        .collect())
}

/// Reads one event in HTTP's binary mode: `ce-` headers, percent-encoded, and the data as body.
///
/// # Errors
/// Code `malformed`: a header twice or not UTF-8, a body of JSON content type that is no strict JSON, or no
/// `CloudEvent` at all.
pub fn parse_http<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
) -> Result<Envelope, Rejection> {
    let mut attributes = Attributes::default();
    for (name, value) in headers {
        if name.eq_ignore_ascii_case("content-type") {
            attributes.add("datacontenttype", value)?;
        } else if let Some((prefix, name)) = name.split_at_checked(3)
            && prefix.eq_ignore_ascii_case("ce-")
            && !name.eq_ignore_ascii_case("datacontenttype")
        {
            attributes.add(&name.to_ascii_lowercase(), &unescape(value))?;
        }
    }
    attributes.envelope((!body.is_empty()).then_some(body))
}

/// Reads one event from a Kafka record, in binary mode (`ce_` headers, the data as value) or structured mode, as its
/// `content-type` header tells. Null headers count as absent.
///
/// # Errors
/// Code `malformed` as in HTTP, and for batches and formats that we do not read; `invalid_event` for a null value.
pub fn parse_kafka<'a>(
    headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    value: Option<&[u8]>,
) -> Result<Envelope, Rejection> {
    let Some(value) = value else {
        let message = "the record has no value: there is nothing to record";
        return Err(Rejection::field("invalid_event", "data", message));
    };
    let mut attributes = Attributes::default();
    for (name, value) in headers {
        let Some(value) = value else { continue };
        if name.eq_ignore_ascii_case("content-type") {
            attributes.add("datacontenttype", value)?;
        } else if let Some(name) = name.strip_prefix("ce_")
            && name != "datacontenttype"
        {
            attributes.add(name, value)?;
        }
    }
    match mode(attributes.content_type()) {
        Mode::Structured => parse_structured(value),
        Mode::Binary => attributes.envelope(Some(value)),
        Mode::Batch | Mode::Unsupported => Err(Rejection::malformed(
            "a record holds one event, in binary mode or as application/cloudevents+json",
        )),
    }
}

/// Attributes that came as headers.
#[derive(Default)]
struct Attributes(Map<String, Value>);

impl Attributes {
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), Rejection> {
        let text = str::from_utf8(value).map_err(|_| {
            let name = super::clip(name, 64);
            Rejection::malformed(format!("the header of attribute {name:?} is not UTF-8"))
        })?;
        if self.0.insert(name.to_owned(), text.into()).is_some() {
            let name = super::clip(name, 64);
            let message = format!("the header of attribute {name:?} stands twice");
            return Err(Rejection::malformed(message));
        }
        Ok(())
    }

    fn content_type(&self) -> Option<&str> {
        self.0.get("datacontenttype").and_then(Value::as_str)
    }

    fn envelope(self, data: Option<&[u8]>) -> Result<Envelope, Rejection> {
        let json = self.content_type().is_none_or(is_json);
        let size = data.map_or(0, <[u8]>::len);
        // Whether it is an event at all comes first: else its body, which may be anything, would be complained about.
        let mut envelope = Envelope::new(self.0, Data::Absent, size)?;
        envelope.data = match data {
            None => Data::Absent,
            Some(bytes) if json => Data::Json(json::parse(bytes)?),
            Some(_) => Data::Foreign,
        };
        Ok(envelope)
    }
}

/// A header's value without the HTTP binding's escapes: double quotes first, then one round of percent-decoding.
fn unescape(value: &[u8]) -> Vec<u8> {
    let inner = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = match inner {
        Some(quoted) => unquote(quoted),
        None => value.to_vec(),
    };
    rest.reverse();
    while let Some(byte) = rest.pop() {
        let digits = match rest.as_slice() {
            [.., low, high] if byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = digits {
            rest.truncate(rest.len().saturating_sub(2));
            decoded.push(high << 4 | low);
        } else {
            decoded.push(byte);
        }
    }
    decoded
}

/// The inside of a quoted string, without its backslashes.
fn unquote(quoted: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    let keep = |byte: &u8| {
        escaped = !escaped && *byte == b'\\';
        !escaped
    };
    quoted.iter().copied().filter(keep).collect()
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_unescaped_as_the_binding_says() {
        let cases: [(&str, &[u8]); 9] = [
            ("plain", b"plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀".as_bytes()),
            ("%41%e2%82%ac", "A€".as_bytes()),
            ("100%25", b"100%"),
            ("100%", b"100%"),
            ("%4", b"%4"),
            ("%zz%2541", b"%zz%41"),
            (r#""a \"b\" \\c %41""#, br#"a "b" \c A"#),
            ("%C0%A0", b"\xc0\xa0"),
        ];
        for (sent, meant) in cases {
            assert_eq!(unescape(sent.as_bytes()), meant, "{sent}");
        }
    }

    #[test]
    fn content_types_tell_the_mode() {
        let cases = [
            (Some("application/cloudevents+json"), Mode::Structured),
            (
                Some("Application/CloudEvents+JSON ; charset=UTF-8"),
                Mode::Structured,
            ),
            (
                Some("application/cloudevents-batch+json;charset=utf-8"),
                Mode::Batch,
            ),
            (Some("application/cloudevents+avro"), Mode::Unsupported),
            (Some("application/cloudevents"), Mode::Unsupported),
            (Some("application/json"), Mode::Binary),
            (Some(""), Mode::Binary),
            (None, Mode::Binary),
        ];
        for (content_type, expected) in cases {
            assert_eq!(mode(content_type), expected, "{content_type:?}");
        }
        assert!(is_json("application/json; charset=utf-8"));
        assert!(is_json("application/vnd.acme+json") && is_json("TEXT/JSON"));
        assert!(!is_json("text/plain") && !is_json("json") && !is_json("application/jsonp"));
    }
}
