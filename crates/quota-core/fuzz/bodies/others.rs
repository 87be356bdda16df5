//! What people and strangers write: JSON, catalogs, lines of an import, webhooks, and the paths that gateways ask about.

use super::{catalogs, now, refused, sound};
use quota_core::catalog::{Catalog, compatible};
use quota_core::door::{IMPORT_SOURCE, import, is_visible, parse_json};
use quota_core::razorpay::{Counted, Notice, SOURCE, Verdict, Whose};
use quota_core::route::{find, normal};
use quota_core::time::{DAY, Timestamp};
use serde_json::Value;

/// Strict JSON: what is taken is what any other reader takes it for.
pub fn json(bytes: &[u8]) -> bool {
    match parse_json(bytes) {
        Err(rejection) => {
            refused(&rejection);
            false
        }
        Ok(value) => {
            assert_eq!(
                serde_json::from_slice::<Value>(bytes).ok(),
                Some(value.clone())
            );
            // A fraction may be written with other digits.
            if !has_fraction(&value) {
                assert_eq!(parse_json(value.to_string().as_bytes()), Ok(value));
            }
            true
        }
    }
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(elements) => elements.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}

/// A catalog's text.
pub fn catalog(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let catalog = match Catalog::parse(text) {
        Ok(catalog) => catalog,
        Err(faults) => {
            assert!(!faults.is_empty());
            assert!(faults.iter().all(|fault| !fault.message.is_empty()));
            return false;
        }
    };
    let model = catalog.model();
    assert_eq!(catalog.text(), text);
    assert_eq!(compatible(model, model), []);
    for at in [Timestamp::from_micros(0), now(), now().plus(365 * DAY)] {
        for span in [catalog.day(at), catalog.month(at)] {
            assert!(span.start <= at && at < span.end, "{span:?} {at}");
        }
        for plan in model.plans.keys() {
            let ends = (1..4).map(|n| catalog.period_end(plan, at, n));
            let ends: Vec<Timestamp> = ends.flatten().collect();
            assert!(ends.is_sorted(), "{plan} {ends:?}");
            assert!(catalog.grace(plan) >= 0);
        }
    }
    for route in &model.routes {
        let form = normal(&route.path).expect("a route's path is a plain one");
        let found = find(&model.routes, &route.method, &form);
        assert_eq!(found.map(|found| found.is_some()), Ok(true));
    }
    true
}

/// A line about an existing user, in JSON.
pub fn import_line(bytes: &[u8]) -> bool {
    let Ok(Value::Object(line)) = parse_json(bytes) else {
        return false;
    };
    let mut taken = false;
    for catalog in catalogs() {
        match import(&line, catalog, now()) {
            Err(rejection) => refused(&rejection),
            Ok((subject, facts)) => {
                taken = true;
                assert!(is_visible(&subject, 128) && !facts.is_empty());
                for fact in &facts {
                    sound(fact);
                    assert_eq!(fact.source, IMPORT_SOURCE);
                }
                let mut ids: Vec<&str> = facts.iter().map(|fact| fact.id.as_str()).collect();
                ids.sort_unstable();
                assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
            }
        }
    }
    taken
}

/// A webhook's body, whatever of its payment and subscription is counted.
pub fn notice(bytes: &[u8]) -> bool {
    let Some(notice) = Notice::read(bytes) else {
        return false;
    };
    let mut recorded = false;
    for catalog in catalogs() {
        let whose = catalog.model().plans.keys().next_back().map(|plan| Whose {
            subject: "somebody".to_owned(),
            plan: plan.clone(),
        });
        for (payment, subscription) in [(false, false), (true, false), (false, true), (true, true)]
        {
            let counted = Counted {
                payment: whose.clone().filter(|_| payment),
                subscription: whose.clone().filter(|_| subscription),
            };
            match notice.judge(catalog, &counted, now()) {
                Verdict::Record { subject, fact, .. } => {
                    recorded = true;
                    sound(&fact);
                    assert!(is_visible(&subject, 128));
                    assert!(!fact.id.is_empty() && fact.source == SOURCE);
                }
                Verdict::Counted => assert!(payment),
                Verdict::Ignored(code) | Verdict::Held(code) => {
                    assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
                }
            }
            for plan in catalog.model().plans.keys() {
                match notice.resolved(catalog, &counted, plan, now()) {
                    Ok(fact) => sound(&fact),
                    Err(rejection) => refused(&rejection),
                }
            }
        }
    }
    recorded
}

/// The target of a request that a gateway asks about.
pub fn route(bytes: &[u8]) -> bool {
    let Ok(target) = std::str::from_utf8(bytes) else {
        return false;
    };
    let form = normal(target);
    if let Ok(form) = &form {
        assert_eq!(normal(&form.replace('%', "%25")).as_ref(), Ok(form));
        assert!(form.starts_with('/') && !form.contains("//"));
        assert!(
            !form
                .split('/')
                .any(|segment| segment == "." || segment == "..")
        );
    }
    let generous = generous(target);
    for catalog in catalogs() {
        let routes = &catalog.model().routes;
        let Some(gated) = routes.iter().find(|route| route.path == generous) else {
            continue;
        };
        // Whatever some upstream takes for a gated path is asked about, or refused: never open.
        if let Ok(form) = &form {
            let found = find(routes, &gated.method, form);
            assert!(!matches!(found, Ok(None)), "{target:?} passes as {form:?}");
        }
    }
    form.is_ok()
}

/// A path as the most generous of upstreams would read it.
fn generous(target: &str) -> String {
    let mut path = target.to_owned();
    loop {
        let decoded = decoded(&path);
        if decoded == path {
            break;
        }
        path = decoded;
    }
    let path = path.to_lowercase().replace('\\', "/");
    let path = path.split(['?', '#', '\0']).next().unwrap_or_default();
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        let segment = segment.split(';').next().unwrap_or_default();
        match segment.trim_matches(|c: char| c.is_whitespace() || c.is_control()) {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

/// Undoes percent-encoding once, wherever it can.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
