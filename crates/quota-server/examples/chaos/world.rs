//! A ledger with its nodes, and one round after the other on it.

use crate::checker::{Checker, PROBE};
use crate::client::Client;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::faults::Fault;
use crate::history::{History, Told};
use crate::ledger::partition_of;
use crate::load::{Load, settle};
use crate::model::CATALOG;
use crate::node::{EVERYTHING, Node, Plan, run};
use crate::servers::{Database, LIMIT, Server};
use crate::topic::Topic;
use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Partitions of the harness's ledger: few, so that nodes race for each.
pub const PARTITIONS: usize = 4;
const NODES: usize = 3;
/// Wishes that are answered before a fault, at most, and after it.
const BEFORE: u64 = 80;
const AFTER: usize = 20;
/// "Serving again within 5 s of its being back", and "the others go on within 5 s".
const PROMISED: Duration = Duration::from_secs(5);

/// What a run is given.
pub struct Settings {
    pub program: PathBuf,
    pub postgres: PathBuf,
    pub kafka: PathBuf,
    pub dir: PathBuf,
    pub seed: u64,
    /// Whether promised times are part of the judgement; else they are only told.
    pub timed: bool,
}

/// What a row of the table came to.
#[derive(Default)]
pub struct Tally {
    pub rounds: u64,
    pub ops: usize,
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    /// The longest time until all served again.
    pub slowest: Duration,
}

/// A ledger, its servers and its nodes.
pub struct World {
    pub postgres: Server,
    pub kafka: Server,
    pub plan: Plan,
    pub nodes: Vec<Node>,
    /// PostgreSQL's clock; none where it has the machine's.
    pub clock: Option<Clock>,
    pub checker: Checker,
    pub topic: Topic,
    pub dice: Dice,
    pub tally: Tally,
    /// What clients did in this round.
    pub history: History,
    load: Option<Load>,
    /// Whether all nodes were seen to serve since the fault.
    recovered: bool,
    timed: bool,
    rounds: u64,
    asked: u64,
}

impl World {
    /// Makes the ledger and starts the nodes.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let postgres = Server::new("postgres", &settings.postgres);
        let kafka = Server::new("kafka", &settings.kafka);
        let server = postgres.run("start").await?;
        let brokers = kafka.run("start").await?;
        let name = format!("chaos_{}", uuid::Uuid::new_v4().simple());
        let database = Database::create(&server, &name).await?;
        let mut plan = Plan {
            program: settings.program.clone(),
            database,
            socket: socket(&settings.postgres)?,
            brokers,
            dir: settings.dir.clone(),
            key: String::new(),
        };
        prepare(&mut plan, &settings.dir)?;
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let name = format!("node-{number}");
            nodes.push(Node::new(&plan, &name, EVERYTHING).await?);
        }
        let mut connection = plan.database.connect().await?;
        let checker = Checker::new(&mut connection).await?;
        let topic = Topic::open(&plan.brokers, PARTITIONS, false)?;
        let mut world = Self {
            postgres,
            kafka,
            plan,
            nodes,
            clock: None,
            checker,
            topic,
            dice: Dice::new(settings.seed),
            tally: Tally::default(),
            history: History::default(),
            load: None,
            recovered: false,
            timed: settings.timed,
            rounds: 0,
            asked: 0,
        };
        world.recover(None).await?;
        world.check(History::default()).await?;
        Ok(world)
    }

    pub fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// A node by chance.
    pub fn any(&mut self) -> usize {
        usize::try_from(self.dice.below(NODES as u64)).unwrap_or(0)
    }

    pub fn node(&mut self, number: usize) -> anyhow::Result<&mut Node> {
        self.nodes.get_mut(number).context("no such node")
    }

    /// One round: clients at work, the fault, everything back, what is not known asked for again, and the check.
    pub async fn round(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.rounds += 1;
        self.tally.rounds += 1;
        let name = format!("r{}", self.rounds);
        let before = usize::try_from(self.dice.below(BEFORE))?;
        let load = Load::start(&self.clients(), &name, &mut self.dice);
        load.answers(before).await;
        self.load = Some(load);
        self.recovered = false;
        let struck = fault.strike(self).await;
        self.answers(AFTER).await;
        self.rest().await;
        struck?;
        if !self.recovered {
            self.recover(None).await?;
        }
        let mut history = std::mem::take(&mut self.history);
        for op in &history.ops {
            match op.told() {
                Told::Settled => self.tally.acknowledged += 1,
                Told::Refused => self.tally.refused += 1,
                Told::Unknown | Told::Never => self.tally.unknown += 1,
            }
        }
        self.tally.ops += history.ops.len();
        settle(&mut history, &self.clients(), &mut self.dice).await;
        self.check(history).await
    }

    /// Waits for so many more answers to the clients.
    pub async fn answers(&self, more: usize) {
        if let Some(load) = &self.load {
            load.answers(more).await;
        }
    }

    /// Lets the clients finish what they are at, and rest.
    pub async fn rest(&mut self) {
        if let Some(load) = self.load.take() {
            self.history.merge(load.finish().await);
        }
    }

    async fn check(&mut self, history: History) -> anyhow::Result<()> {
        let mut connection = self.plan.database.connect().await?;
        self.checker.check(&mut connection, &history).await
    }

    /// Brings every node back that does not run, and waits until all serve, in every partition; notes how long that took
    /// since something was back.
    pub async fn recover(&mut self, back: Option<Instant>) -> anyhow::Result<()> {
        let subjects = self.subjects();
        for node in &mut self.nodes {
            node.proxy.disarm();
            node.proxy.flow(crate::proxy::Flow::Open);
            if node.runs() {
                node.signal(Signal::SIGCONT)?;
            } else {
                node.start()?;
            }
        }
        let serving = self.nodes.iter_mut().map(|node| node.serving(&subjects));
        futures::future::try_join_all(serving).await?;
        self.recovered = true;
        if let Some(back) = back {
            self.promised("all serve again", back);
        }
        Ok(())
    }

    /// Holds a time against what is promised.
    pub fn promised(&mut self, what: &str, since: Instant) {
        let took = since.elapsed();
        self.tally.slowest = self.tally.slowest.max(took);
        if self.timed && took > PROMISED {
            let wrong = format!("{what} only after {:.1} s", took.as_secs_f64());
            self.checker.found.push(wrong);
        }
    }

    /// A new subject in every partition, to ask whether it is served.
    pub fn subjects(&mut self) -> Vec<String> {
        let mut subjects: Vec<Option<String>> = vec![None; PARTITIONS];
        while subjects.iter().any(Option::is_none) {
            self.asked += 1;
            let name = format!("{PROBE}{}", self.asked);
            let key = crate::ledger::subject_key(crate::client::PRODUCT, &name);
            if let Some(place) = subjects.get_mut(partition_of(&key, PARTITIONS)) {
                place.get_or_insert(name);
            }
        }
        subjects.into_iter().flatten().collect()
    }

    /// Waits until the topic is the ledger and every view is at its head, and has everything verified by the program too.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        self.check(History::default()).await?;
        self.caught_up().await?;
        self.topic.meets(&self.checker.hashes).await?;
        run(&self.plan, &["verify"]).context("the program's own verification")?;
        Ok(())
    }

    /// Waits until topic and views are where the ledger is now.
    pub async fn caught_up(&mut self) -> anyhow::Result<()> {
        let mut heads = Vec::new();
        for partition in 0..PARTITIONS {
            let rows = format!("SELECT count(*) FROM ledger WHERE partition = {partition}");
            heads.push(self.plan.database.number(&rows).await?);
        }
        self.topic.reaches(&heads).await?;
        self.projected(&heads).await
    }

    /// Waits until every checkpoint is at least here.
    async fn projected(&self, heads: &[i64]) -> anyhow::Result<()> {
        let started = Instant::now();
        for (partition, head) in heads.iter().enumerate() {
            let next = format!(
                "SELECT next_offset FROM projector_checkpoints_v{} WHERE partition = {partition}",
                quota_core::state::FOLD_VERSION
            );
            loop {
                let next = self.plan.database.number(&next).await?;
                if next >= *head {
                    break;
                }
                ensure!(
                    started.elapsed() < LIMIT,
                    "the views of partition {partition} stay at {next}, the ledger is at {head}"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}

/// The socket of a server of `scripts/postgres`.
fn socket(dir: &Path) -> anyhow::Result<PathBuf> {
    let folder = std::fs::read_to_string(dir.join("socket-dir"))?;
    let port = std::fs::read_to_string(dir.join("port"))?;
    Ok(Path::new(folder.trim()).join(format!(".s.PGSQL.{}", port.trim())))
}

fn prepare(plan: &mut Plan, dir: &Path) -> anyhow::Result<()> {
    let partitions = PARTITIONS.to_string();
    run(plan, &["migrate", "--partitions", &partitions])?;
    let file = dir.join("catalog.toml");
    std::fs::write(&file, CATALOG)?;
    let file = file.to_str().context("a path that is no text")?;
    run(
        plan,
        &[
            "catalog",
            "publish",
            file,
            "--product",
            crate::client::PRODUCT,
        ],
    )?;
    let scopes = "publish,consume,check,read";
    let made = run(
        plan,
        &[
            "key",
            "create",
            "--product",
            crate::client::PRODUCT,
            "--scope",
            scopes,
        ],
    )?;
    made.trim().clone_into(&mut plan.key);
    Ok(())
}
