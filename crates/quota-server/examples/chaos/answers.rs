//! What the answers to one wish must have in common, with each other and with its row.

use crate::client::{Answer, PRODUCT};
use crate::history::{Op, Told, Wish, place, text};
use crate::ledger::Row;

/// A consume without a key, as a row shows it: its subject, and its feature and amount.
pub fn bare(op: &Op) -> Option<(String, String)> {
    match &op.wish {
        Wish::Consume { feature, amount } => {
            Some((op.subject.clone(), format!("{feature}:{amount}")))
        }
        _ => None,
    }
}

/// How a row differs from what was asked for.
pub fn differs(op: &Op, row: &Row) -> Option<String> {
    let data = row.data().unwrap_or_default();
    let expected = match &op.wish {
        Wish::Consume { feature, amount } | Wish::Tell { feature, amount } => {
            Some((*feature, *amount, "usage.recorded"))
        }
        Wish::Hold {
            feature, amount, ..
        } => Some((*feature, *amount, "usage.held")),
        Wish::End { hold, end } => {
            let kind = if *end == "confirm" {
                "usage.recorded"
            } else {
                "usage.released"
            };
            let same = text(&data, "hold") == hold && row.kind == kind;
            return (!same).then(|| format!("{op:?} came out as {row:?}"));
        }
    };
    let (feature, amount, kind) = expected?;
    let denied = op
        .settled()
        .next()
        .is_some_and(|(_, answer)| answer.status != 200);
    let kind = if denied { "usage.denied" } else { kind };
    let same = op.subject == row.subject
        && row.kind == kind
        && text(&data, "feature") == feature
        && data.get("amount").and_then(serde_json::Value::as_i64) == Some(amount);
    (!same).then(|| format!("{op:?} came out as {row:?}"))
}

/// What is wrong with the answers to one wish.
pub fn outcome(op: &Op, met: Option<(usize, i64)>) -> Option<String> {
    if let Some(never) = op
        .attempts
        .iter()
        .find(|attempt| attempt.told(op) == Told::Never)
    {
        return Some(format!(
            "{} of {PRODUCT}: {:?} was answered {:?}",
            op.subject,
            op.wish,
            never.answer()
        ));
    }
    // A refusal that is no "try again" says how it is.
    let last = op.attempts.last()?;
    let busy = last
        .answer()
        .is_none_or(|answer| [503, 504].contains(&answer.status));
    if op.id.is_some() && op.told() == Told::Unknown && busy {
        return Some(format!("no answer says what became of it: {op:?}"));
    }
    let answers: Vec<&Answer> = op.settled().map(|(_, answer)| answer).collect();
    let first = answers.first()?;
    if op.id.is_none() {
        // A denial without a key may go unrecorded.
        let lost = first.status == 200 && met.is_none();
        return lost.then(|| format!("acknowledged and gone: {op:?}"));
    }
    let Some(met) = met else {
        return Some(format!("acknowledged and gone: {op:?}"));
    };
    for answer in &answers {
        let same = match op.wish {
            Wish::Tell { .. } | Wish::End { .. } => op.position(answer) == op.position(first),
            _ => answer.status == first.status && answer.timeless() == first.timeless(),
        };
        if !same {
            return Some(format!("one wish, two outcomes: {first:?} and {answer:?}"));
        }
        if place(&op.position(answer)) != Some(met) {
            return Some(format!("told to be elsewhere than at {met:?}: {answer:?}"));
        }
    }
    let news = |answer: &&&Answer| match op.wish {
        Wish::Tell { .. } => {
            let body = answer.json();
            body.pointer("/results/0/status")
                .and_then(serde_json::Value::as_str)
                == Some("recorded")
        }
        Wish::End { .. } => false,
        _ => !answer.replayed,
    };
    let firsts = answers.iter().filter(news).count();
    (firsts > 1).then(|| format!("told as new {firsts} times: {op:?}"))
}
