//! What a gateway asks about: a method and a path, brought to one form before it is compared with a catalog's routes.
//!
//! The request goes on to an upstream that reads its path in a way of its own. So a path is taken only where all of them
//! read the same; what some would read as another path is refused, and never passed as open.

use crate::catalog::Route;
use thiserror::Error;

/// Something in a request's method or path that others may read as another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the forwarded request {0}")]
pub struct Odd(&'static str);

/// The one form of a request target's path: percent-decoded once, without dot segments, double and trailing slashes.
///
/// # Errors
/// What is odd in it.
pub fn normal(target: &str) -> Result<String, Odd> {
    let raw = target.split('?').next().unwrap_or_default();
    if !raw.starts_with('/') {
        return Err(Odd("has a path that does not begin with a slash"));
    }
    let path = decoded(raw)?;
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                let above = segments.pop();
                above.ok_or(Odd("has a path that goes above its root"))?;
            }
            _ if segment.trim() != segment => {
                return Err(Odd("has a space at an end of a path segment"));
            }
            _ => segments.push(segment),
        }
    }
    Ok(format!("/{}", segments.join("/")))
}

/// Undoes percent-encoding, once.
fn decoded(raw: &str) -> Result<String, Odd> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next().unwrap_or_default()).to_digit(16);
        let (high, low) = (digit(), digit());
        let byte = high.zip(low).map(|(high, low)| high * 16 + low);
        let byte = byte.and_then(|byte| u8::try_from(byte).ok());
        match byte.ok_or(Odd("has a broken percent-encoding"))? {
            b'/' => return Err(Odd("has an encoded slash")),
            byte => bytes.push(byte),
        }
    }
    let path = String::from_utf8(bytes).map_err(|_| Odd("has a path that is not UTF-8"))?;
    // Parameters, fragments, queries and other systems' slashes, where an upstream decodes before it parses.
    if path.contains(['\\', ';', '#', '?']) || path.contains(char::is_control) {
        return Err(Odd(
            "has a path with a backslash, ';', '#', '?' or a control character",
        ));
    }
    let encoded = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if path.split('%').skip(1).any(encoded) {
        return Err(Odd("is percent-encoded twice"));
    }
    Ok(path)
}

/// The gated route of a method and a path in its normal form; none for what is open.
///
/// # Errors
/// A method that is none, and a path that is a gated route's but for the case of its letters: some upstreams do not mind.
pub fn find<'a>(routes: &'a [Route], method: &str, path: &str) -> Result<Option<&'a Route>, Odd> {
    let fits = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    if method.is_empty() || !method.bytes().all(fits) {
        return Err(Odd("has a method that is not in capitals"));
    }
    let mut of_method = routes.iter().filter(|route| route.method == method);
    if let Some(route) = of_method.clone().find(|route| route.path == path) {
        return Ok(Some(route));
    }
    let (lower, upper) = (path.to_lowercase(), path.to_uppercase());
    if of_method
        .any(|route| route.path.to_lowercase() == lower || route.path.to_uppercase() == upper)
    {
        return Err(Odd("has a gated route's path in letters of another case"));
    }
    Ok(None)
}
