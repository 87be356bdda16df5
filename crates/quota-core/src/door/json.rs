//! Strict JSON: no member twice, and no deeper than anything that we read.

use super::{Rejection, clip};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// How deep arrays and objects may be nested.
const MAX_DEPTH: usize = 32;

/// Reads JSON text.
///
/// # Errors
/// Code `malformed` for what is no JSON, has a member twice, or is nested deeper than 32.
pub fn parse(bytes: &[u8]) -> Result<Value, Rejection> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Strict { depth: MAX_DEPTH }.deserialize(&mut reader);
    let value = read.and_then(|value| reader.end().map(|()| value));
    value
        .map_err(|error| Rejection::malformed(format!("this is no JSON that can be read: {error}")))
}

/// Reads any value, with that much depth left.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth
            .map(|depth| Self { depth })
            .ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH}")))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(inner)? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                let name = clip(&name, 64);
                return Err(A::Error::custom(format_args!(
                    "member {name:?} stands twice"
                )));
            }
            let value = members.next_value_seed(inner)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let rejection = parse(text.as_bytes()).unwrap_err();
        assert_eq!((rejection.code, rejection.malformed), ("malformed", true));
        rejection.message
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"b": [1, -2, 2.5, null, true, "x\n"], "a": {"18446744073709551615": 18446744073709551615}}"#;
        let value = parse(text.as_bytes()).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(value.as_object().unwrap().keys().next().unwrap(), "b");
    }

    #[test]
    fn refuses_a_member_that_stands_twice_at_any_depth() {
        assert!(refusal(r#"{"a": 1, "a": 1}"#).contains("\"a\" stands twice"));
        assert!(refusal(r#"[{"x": {"é": 1, "\u00e9": 2}}]"#).contains("stands twice"));
    }

    #[test]
    fn refuses_what_is_nested_too_deep_and_what_is_no_json() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(refusal(&nested(MAX_DEPTH + 1)).contains("nested deeper than 32"));
        refusal(&"[".repeat(100_000));
        for text in [
            "",
            "{",
            "{} {}",
            "nul",
            "{\"a\":1,}",
            "1e999",
            "\"\\ud800\"",
            "\u{feff}{}",
        ] {
            refusal(text);
        }
        assert!(parse(b"\"\xff\"").is_err());
    }
}
