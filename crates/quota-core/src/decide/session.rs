//! Sessions: one active one of a type, gated when a new one is asked for.

use super::{Draft, Light, Told, Verdict, decision, newest, refuse};
use crate::command::{
    Address, Answer, Refusal, SESSION_SOURCE, SessionAnswer, SessionState, SessionStatus,
};
use crate::event::{Denied, Event, SessionCompleted, SessionCreated, SessionSuperseded};
use crate::judge::{Question, judge};

pub(super) fn open(
    light: &Light<'_>,
    address: &Address,
    kind: &str,
    force_new: bool,
    fresh_id: &str,
) -> Verdict {
    let Some(rule) = light.catalog.model().sessions.get(kind) else {
        let message = format!("the catalog knows no session type {kind:?}");
        return refuse(Refusal::field(
            422,
            "unknown_session_type",
            "session_type",
            message,
        ));
    };
    let active = light
        .state
        .subject
        .sessions
        .get(kind)
        .and_then(|id| light.state.session(id));
    // One with the fresh id was opened by an append of this very wish, of which nobody had heard.
    if let Some(active) = active.filter(|active| !force_new || active.id == fresh_id) {
        return answer(light, address, active.clone());
    }
    let question = Question {
        feature: rule.feature.clone(),
        amount: 1,
        resource: None,
    };
    let judgement = judge(light.state, light.catalog, &question, light.now);
    if !judgement.outcome.reason.allows() {
        let known = (rule.feature.clone(), judgement.outcome.reason);
        if light.state.subject.denied.contains(&known) {
            let denied = decision(light, address, &rule.feature, judgement.outcome);
            let position = denied.position;
            let refused = SessionAnswer {
                session: None,
                denied: Some(denied),
                position,
            };
            return Verdict::Answer(Answer::Session(Box::new(refused)));
        }
        let event = Event::UsageDenied(Denied {
            feature: rule.feature.clone(),
            amount: 1,
            resource: None,
            hold_seconds: None,
            outcome: judgement.outcome,
        });
        return Verdict::Append(
            vec![draft(light, fresh_id.to_owned(), event)],
            Told::SessionRefused,
        );
    }
    let mut drafts = Vec::new();
    if let Some(active) = active {
        let superseded = SessionSuperseded {
            session: active.id.clone(),
            session_type: kind.to_owned(),
        };
        drafts.push(draft(
            light,
            format!("{}:superseded", active.id),
            Event::SessionSuperseded(superseded),
        ));
    }
    let created = SessionCreated {
        session: fresh_id.to_owned(),
        session_type: kind.to_owned(),
    };
    drafts.push(draft(
        light,
        format!("{fresh_id}:created"),
        Event::SessionCreated(created),
    ));
    Verdict::Append(drafts, Told::Session(fresh_id.to_owned()))
}

pub(super) fn complete(light: &Light<'_>, address: &Address, id: &str, resource: &str) -> Verdict {
    let Some(session) = light.state.session(id) else {
        return refuse(Refusal::whole(
            404,
            "unknown_session",
            "this subject has no such session",
        ));
    };
    match session.status {
        SessionStatus::Completed if session.resource.as_deref() == Some(resource) => {
            answer(light, address, session.clone())
        }
        SessionStatus::Completed => {
            let message = "this session was completed with another resume";
            refuse(Refusal::field(
                409,
                "session_completed",
                "resume_id",
                message,
            ))
        }
        SessionStatus::Superseded => refuse(Refusal::whole(
            409,
            "session_superseded",
            "this session was closed by a newer one",
        )),
        SessionStatus::Active => {
            let source = light
                .catalog
                .model()
                .sessions
                .get(&session.session_type)
                .map(|rule| rule.source.clone());
            let event = Event::SessionCompleted(SessionCompleted {
                session: id.to_owned(),
                session_type: session.session_type.clone(),
                resource: resource.to_owned(),
                source: source.unwrap_or_default(),
            });
            Verdict::Append(
                vec![draft(light, format!("{id}:completed"), event)],
                Told::Session(id.to_owned()),
            )
        }
    }
}

fn answer(light: &Light<'_>, address: &Address, session: SessionState) -> Verdict {
    let position = newest(light, address);
    Verdict::Answer(Answer::Session(Box::new(SessionAnswer {
        session: Some(session),
        denied: None,
        position,
    })))
}

fn draft(light: &Light<'_>, id: String, event: Event) -> Draft {
    Draft {
        source: SESSION_SOURCE.to_owned(),
        id,
        occurred_at: light.now,
        event,
    }
}
