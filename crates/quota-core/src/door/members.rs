//! Reading an object member by member, so that every fault names its member.

use super::{Rejection, is_visible, plain};
use crate::time::Timestamp;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// An object that is read one member at a time. A null member counts as absent.
#[derive(Debug)]
pub struct Members<'a> {
    object: &'a Map<String, Value>,
    code: &'static str,
    prefix: &'static str,
    known: Vec<&'static str>,
}

impl<'a> Members<'a> {
    /// A reader whose rejections carry `code` and a field of `prefix` and the member's name.
    #[must_use]
    pub const fn new(
        object: &'a Map<String, Value>,
        code: &'static str,
        prefix: &'static str,
    ) -> Self {
        Self {
            object,
            code,
            prefix,
            known: Vec::new(),
        }
    }

    /// The rejection of a member, with what it should be.
    #[must_use]
    pub fn reject(&self, name: &str, message: impl AsRef<str>) -> Rejection {
        let field = format!("{}{}", self.prefix, plain(name, super::MAX_NAME));
        let message = format!("{field} {}", message.as_ref());
        Rejection::field(self.code, field, message)
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// What must be there.
    ///
    /// # Errors
    /// A rejection that names the member, where it is not.
    pub fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, Rejection> {
        value.ok_or_else(|| self.reject(name, "is missing"))
    }

    /// A text of 1 to `max` visible characters, if it is there.
    ///
    /// # Errors
    /// A rejection that names the member, where it is anything else.
    pub fn text(&mut self, name: &'static str, max: usize) -> Result<Option<String>, Rejection> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if is_visible(text, max) => Ok(Some(text.clone())),
            Some(Value::String(_)) => {
                let rule =
                    format!("must have 1 to {max} visible characters, without a space at the ends");
                Err(self.reject(name, rule))
            }
            Some(_) => Err(self.reject(name, "must be a string")),
        }
    }

    /// A whole number within the bounds, if it is there; `1.0` is one.
    ///
    /// # Errors
    /// A rejection that names the member, where it is anything else.
    pub fn integer(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<i64>,
    ) -> Result<Option<i64>, Rejection> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => {
                let number = whole(value).filter(|number| bounds.contains(number));
                let (first, last) = (bounds.start(), bounds.end());
                let rule = || {
                    self.reject(
                        name,
                        format!("must be a whole number from {first} to {last}"),
                    )
                };
                number.ok_or_else(rule).map(Some)
            }
        }
    }

    /// True or false, if it is there.
    ///
    /// # Errors
    /// A rejection that names the member, where it is anything else.
    pub fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, Rejection> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.reject(name, "must be true or false")),
        }
    }

    /// An RFC 3339 time, if it is there.
    ///
    /// # Errors
    /// A rejection that names the member, where it is anything else.
    pub fn time(&mut self, name: &'static str) -> Result<Option<Timestamp>, Rejection> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => {
                let instant = value.as_str().and_then(Timestamp::parse);
                let rule =
                    "must be an RFC 3339 time from 1970 on, for example 2026-11-20T12:00:00Z";
                instant.ok_or_else(|| self.reject(name, rule)).map(Some)
            }
        }
    }

    /// Refuses the first member that nobody asked for.
    ///
    /// # Errors
    /// A rejection that names the member, and the members that there are.
    pub fn finish(&self) -> Result<(), Rejection> {
        let mut names = self.object.keys();
        match names.find(|name| !self.known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let known = match self.known.as_slice() {
                    [] => "no members at all".to_owned(),
                    known => known.join(", "),
                };
                Err(self.reject(name, format!("is not known here; there are {known}")))
            }
        }
    }
}

/// A JSON number without a fraction, as every JSON reader understands it.
fn whole(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        let exact = float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within 53 bits")]
        exact.then_some(float as i64)
    })
}
