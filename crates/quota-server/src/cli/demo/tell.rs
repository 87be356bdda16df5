//! Words for people: what came of a step, and where it is not what the story says.

use super::story::Deed;
use serde_json::Value;

/// How wide the words of a step are, before those of its outcome.
const WIDTH: usize = 74;

/// A step and what came of it.
pub fn line(say: &str, deed: &Deed, came: &Value, good: bool) -> String {
    let mark = if good { "ok" } else { "FAILED" };
    format!("  {mark:<6}  {say:<WIDTH$}  {}", outcome(deed, came))
}

fn outcome(deed: &Deed, came: &Value) -> String {
    let word = |name: &str| {
        at(came, &format!("/{name}"))
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    match deed {
        Deed::Tell(_) => word("status"),
        Deed::Inbox(_) => {
            let letters = list(at(came, "/dead_letters"));
            let aside = if letters.is_empty() {
                String::new()
            } else {
                format!(", put aside: {letters}")
            };
            format!(
                "{} recorded, {} dropped as told before{aside}",
                at(came, "/recorded"),
                at(came, "/duplicates")
            )
        }
        Deed::Race(_) => list(at(came, "/statuses")),
        Deed::Confirm(_) | Deed::Release(_) if *at(came, "/http") == 200 => word("status"),
        Deed::Entitlements(_) => {
            let grants = at(came, "/grants").as_array().map_or(0, Vec::len);
            format!("plan {}, grants: {grants}", word("plan"))
        }
        Deed::Consume(_) | Deed::Check(_) if *at(came, "/allowed") == true => {
            format!("{}{}", allowed(deed, came), again(came))
        }
        Deed::Consume(_) | Deed::Check(_) if *at(came, "/allowed") == false => {
            let status = at(came, "/denial/status");
            format!("{status} {}{}", word("message"), again(came))
        }
        _ => format!("{} {}", at(came, "/http"), word("code")),
    }
}

fn allowed(deed: &Deed, came: &Value) -> String {
    let verb = match deed {
        Deed::Consume(_) if at(came, "/hold").is_string() => "held",
        Deed::Consume(_) => "used",
        _ => "yes",
    };
    let (used, held, limit) = (at(came, "/used"), at(came, "/held"), at(came, "/limit"));
    match (
        *at(came, "/reason") == "already_created",
        *at(came, "/unlimited") == true,
    ) {
        (true, _) => "it is there already".to_owned(),
        (_, true) => format!("{verb}, without limit"),
        _ if *held == 0 => format!("{verb}: {used} of {limit}"),
        _ => format!("{verb}: {used} used and {held} held of {limit}"),
    }
}

fn again(came: &Value) -> &'static str {
    if *at(came, "/replayed") == true {
        " (the first answer again)"
    } else {
        ""
    }
}

fn list(values: &Value) -> String {
    let values = values.as_array().into_iter().flatten();
    let words: Vec<String> = values
        .map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        })
        .collect();
    words.join(", ")
}

/// The first member of `wanted` that is not so in `came`. Lists must be as long, and their elements so in turn.
pub fn difference(wanted: &Value, came: &Value) -> Option<String> {
    match (wanted, came) {
        (Value::Object(wanted), Value::Object(came)) => wanted.iter().find_map(|(name, wanted)| {
            let came = came.get(name).unwrap_or(&Value::Null);
            difference(wanted, came).map(|what| format!("{name}: {what}"))
        }),
        (Value::Array(wanted), Value::Array(came)) if wanted.len() == came.len() => wanted
            .iter()
            .zip(came)
            .find_map(|(wanted, came)| difference(wanted, came)),
        (wanted, came) if wanted == came => None,
        (wanted, came) => Some(format!("must be {wanted}, is {came}")),
    }
}

/// A member, by its path; null where there is none.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_wanted_is_compared() {
        let came = json!({"a": 1, "b": [{"c": true, "d": null}], "e": "x"});
        assert_eq!(
            difference(&json!({"a": 1, "b": [{"c": true}]}), &came),
            None
        );
        let differs = |wanted| difference(&wanted, &came).unwrap();
        assert_eq!(
            differs(json!({"b": [{"c": false}]})),
            "b: c: must be false, is true"
        );
        assert_eq!(
            differs(json!({"b": []})),
            "b: must be [], is [{\"c\":true,\"d\":null}]"
        );
        assert_eq!(differs(json!({"f": 1})), "f: must be 1, is null");
    }
}
