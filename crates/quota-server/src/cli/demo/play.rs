//! Plays the day: each step through a real door, what came of it printed, and compared with what must.

use super::super::print;
use super::doors::{Answer, Ask, Doors, EVENT, JSON};
use super::story::{Day, Deed, Fact, Held, Message, Scene, Step, Use};
use super::tell::{self, at, difference};
use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use quota_core::time::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long the inbox may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What has happened so far.
#[derive(Default)]
pub struct Tally {
    /// Requests and messages.
    pub came_in: u64,
    /// Wishes that were refused.
    pub refused: u64,
    /// What came once more and changed nothing.
    pub deduplicated: u64,
    /// Messages that were put aside.
    pub dead_letters: u64,
    /// Steps that did not come out as written.
    pub failures: u64,
}

/// The stage.
pub struct Stage<'a> {
    doors: &'a mut Doors,
    dawn: Timestamp,
    product: String,
    holds: HashMap<String, String>,
    tally: Tally,
}

/// Plays it all.
pub async fn play(day: &Day, doors: &mut Doors, dawn: Timestamp) -> anyhow::Result<Tally> {
    let mut stage = Stage {
        doors,
        dawn,
        product: String::new(),
        holds: HashMap::new(),
        tally: Tally::default(),
    };
    for scene in &day.scenes {
        stage.scene(scene).await?;
    }
    if stage.doors.has_letters().await? {
        print("  FAILED  a dead letter that nobody expected")?;
        stage.tally.failures += 1;
    }
    Ok(stage.tally)
}

impl Stage<'_> {
    async fn scene(&mut self, scene: &Scene) -> anyhow::Result<()> {
        print(&format!("\n{}", scene.title))?;
        self.product.clone_from(&scene.product);
        for step in &scene.steps {
            let came = self.step(step).await.with_context(|| step.say.clone())?;
            let wanted = Value::Object(step.then.clone());
            let differs = difference(&wanted, &came);
            print(&tell::line(&step.say, &step.deed, &came, differs.is_none()))?;
            if let Some(differs) = differs {
                print(&format!("          {differs}"))?;
                self.tally.failures += 1;
            }
        }
        Ok(())
    }

    /// Does it; what came of it, as one object.
    async fn step(&mut self, step: &Step) -> anyhow::Result<Value> {
        match &step.deed {
            Deed::Tell(fact) => self.tell(fact).await,
            Deed::Inbox(messages) => self.inbox(messages, &step.then).await,
            Deed::Consume(wish) => self.consume(wish).await,
            Deed::Race(wishes) => self.race(wishes).await,
            Deed::Confirm(held) => self.settle(held, "confirm").await,
            Deed::Release(held) => self.settle(held, "release").await,
            Deed::Check(question) => self.check(question).await,
            Deed::Entitlements(whose) => {
                let path = format!("{}/entitlements", self.subject(&whose.subject));
                self.get(&path).await
            }
        }
    }

    fn subject(&self, subject: &str) -> String {
        format!("/v1/products/{}/subjects/{subject}", self.product)
    }

    async fn tell(&mut self, fact: &Fact) -> anyhow::Result<Value> {
        let event = fact.to_event(self.dawn)?.to_string();
        let ask = Ask {
            path: &format!("/v1/products/{}/events", self.product),
            body: Some((EVENT, event)),
            id: None,
        };
        let answer = self.doors.ask(ask).await?;
        let result = answer.body.pointer("/results/0").cloned();
        let came = result.unwrap_or_else(|| with_http(&answer));
        self.tally.came_in += 1;
        self.tally.refused += u64::from(answer.status >= 400);
        self.tally.deduplicated += u64::from(*at(&came, "/status") == "duplicate");
        Ok(came)
    }

    async fn consume(&mut self, wish: &Use) -> anyhow::Result<Value> {
        let answer = consume(self.doors, &self.subject(&wish.subject), wish).await?;
        self.count(&answer);
        if let (Some(name), Some(hold)) = (&wish.named, at(&answer.body, "/hold").as_str()) {
            self.holds.insert(name.clone(), hold.to_owned());
        }
        Ok(with_http(&answer))
    }

    async fn race(&mut self, wishes: &[Use]) -> anyhow::Result<Value> {
        let asked = wishes.iter().map(|wish| {
            let subject = self.subject(&wish.subject);
            let doors = &*self.doors;
            async move { consume(doors, &subject, wish).await }
        });
        let answers = try_join_all(asked).await?;
        for answer in &answers {
            self.count(answer);
        }
        let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        Ok(json!({ "statuses": statuses }))
    }

    async fn settle(&mut self, held: &Held, how: &str) -> anyhow::Result<Value> {
        let Some(hold) = self.holds.get(&held.hold) else {
            bail!("there is no hold {:?} in this story yet", held.hold);
        };
        let ask = Ask {
            path: &format!("{}/holds/{hold}/{how}", self.subject(&held.subject)),
            body: Some((JSON, String::new())),
            id: None,
        };
        let answer = self.doors.ask(ask).await?;
        self.count(&answer);
        Ok(with_http(&answer))
    }

    async fn check(&mut self, question: &Use) -> anyhow::Result<Value> {
        let subject = self.subject(&question.subject);
        let mut path = format!("{subject}/check?feature={}", question.feature);
        if let Some(resource) = &question.resource {
            path.push_str(&format!("&resource={resource}"));
        }
        self.get(&path).await
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let answer = ask_get(self.doors, path).await?;
        self.count(&answer);
        Ok(with_http(&answer))
    }

    fn count(&mut self, answer: &Answer) {
        self.tally.came_in += 1;
        if answer.replayed {
            self.tally.deduplicated += 1;
        } else if answer.status >= 400 || *at(&answer.body, "/allowed") == false {
            self.tally.refused += 1;
        }
    }

    /// Publishes the messages, and waits until all of them have come to something.
    async fn inbox(
        &mut self,
        messages: &[Message],
        then: &Map<String, Value>,
    ) -> anyhow::Result<Value> {
        let Some(Message::Fact(last)) = messages.last() else {
            bail!("the last message must be good");
        };
        let page = format!("{}/ledger?limit=1000", self.subject(&last.subject));
        let before = events(self.doors, &page).await?.len();
        let texts = messages.iter().map(|message| match message {
            Message::Raw { raw } => Ok(raw.clone()),
            Message::Fact(fact) => Ok(fact.to_event(self.dawn)?.to_string()),
        });
        let texts: Vec<String> = texts.collect::<anyhow::Result<_>>()?;
        self.doors
            .publish(&self.product, &last.subject, &texts)
            .await?;
        let started = Instant::now();
        // They are in one partition: when the last has arrived, all have.
        let after = loop {
            let events = events(self.doors, &page).await?;
            if events.iter().any(|event| *at(event, "/id") == *last.id) {
                break events.len();
            }
            if started.elapsed() > PATIENCE {
                bail!("the inbox did not bring {} in time", last.id);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let wanted = then
            .get("dead_letters")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let letters = self.doors.letters(wanted).await?;
        let recorded = after.saturating_sub(before);
        let duplicates = messages.len().saturating_sub(recorded + letters.len());
        self.tally.came_in += u64::try_from(messages.len())?;
        self.tally.deduplicated += u64::try_from(duplicates)?;
        self.tally.dead_letters += u64::try_from(letters.len())?;
        Ok(json!({"recorded": recorded, "duplicates": duplicates, "dead_letters": letters}))
    }
}

async fn consume(doors: &Doors, subject: &str, wish: &Use) -> anyhow::Result<Answer> {
    let mut body = json!({"feature": wish.feature});
    if let Some(members) = body.as_object_mut() {
        members.extend(
            wish.resource
                .as_ref()
                .map(|name| ("resource".to_owned(), json!(name))),
        );
        members.extend(
            wish.hold_seconds
                .map(|time| ("hold_seconds".to_owned(), json!(time))),
        );
    }
    let ask = Ask {
        path: &format!("{subject}/consume"),
        body: Some((JSON, body.to_string())),
        id: wish.id.as_deref(),
    };
    doors.ask(ask).await
}

async fn ask_get(doors: &Doors, path: &str) -> anyhow::Result<Answer> {
    let ask = Ask {
        path,
        body: None,
        id: None,
    };
    doors.ask(ask).await
}

async fn events(doors: &Doors, page: &str) -> anyhow::Result<Vec<Value>> {
    let answer = ask_get(doors, page).await?;
    let events = at(&answer.body, "/events").as_array().cloned();
    events.with_context(|| format!("{page} has no events: {}", answer.body))
}

/// The body, with HTTP's own part of the answer.
fn with_http(answer: &Answer) -> Value {
    let mut came = answer.body.clone();
    if let Some(members) = came.as_object_mut() {
        members.insert("http".into(), answer.status.into());
        members.insert("replayed".into(), answer.replayed.into());
    }
    came
}
