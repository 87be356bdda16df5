//! The faults: what is done to a ledger at work.

mod broker;
mod clocks;
mod database;
mod disks;
mod nodes;
mod projectors;
mod subjects;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::world::World;
use std::fmt;
use std::path::Path;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing but load.
    None,
    NodeKilled,
    AllNodesKilled,
    PostgresKilled,
    BackendKilled,
    CutAtCommit,
    ClientsHangUp,
    StoppedWithLocks,
    BrokerKilled,
    BrokerSilent,
    TailLost,
    RecordsRepeated,
    RebalanceStorm,
    ZombieProjector,
    ProjectorKilled,
    Partition,
    LongPartition,
    SlowLink,
    IdleTransaction,
    ReplacedBehindASleeper,
    HotSubject,
    WalDiskFull,
    BrokerDiskFull,
    ClockJumps,
}

/// How often a row is run.
pub struct Row {
    pub fault: Fault,
    /// The number of the fault in the table of RELIABILITY.md.
    pub number: &'static str,
    pub name: &'static str,
    /// Rounds of a short run, and of a full one.
    pub short: u64,
    pub full: u64,
    /// After so many rounds, topic and views are compared with the ledger too; they are at the row's end.
    pub whole: u64,
}

const fn row(number: &'static str, name: &'static str, fault: Fault, short: u64, full: u64) -> Row {
    Row {
        fault,
        number,
        name,
        short,
        full,
        whole: 50,
    }
}

/// The table, in the order in which it is run. The ledger's time stays ahead of the machine's after clocks have jumped, and a
/// topic is no more what it was once its broker has lost records: so these come last.
pub const ROWS: [Row; 24] = [
    row("-", "load-alone", Fault::None, 0, 20),
    row("1", "node-killed", Fault::NodeKilled, 2, 200),
    row("2", "postgres-killed", Fault::PostgresKilled, 1, 200),
    row("2", "backend-killed", Fault::BackendKilled, 0, 200),
    row("3", "cut-at-commit", Fault::CutAtCommit, 2, 200),
    row("4", "clients-hang-up", Fault::ClientsHangUp, 0, 200),
    row("5", "stopped-with-locks", Fault::StoppedWithLocks, 1, 50),
    row("6", "broker-killed", Fault::BrokerKilled, 1, 200),
    every(
        5,
        row("8", "all-nodes-killed", Fault::AllNodesKilled, 0, 200),
    ),
    every(
        1,
        row("9", "records-repeated", Fault::RecordsRepeated, 0, 100),
    ),
    every(
        5,
        row("10", "rebalance-storm", Fault::RebalanceStorm, 0, 50),
    ),
    every(
        1,
        row("10", "zombie-projector", Fault::ZombieProjector, 0, 10),
    ),
    every(
        5,
        row("11", "projector-killed", Fault::ProjectorKilled, 1, 200),
    ),
    row("13", "partition", Fault::Partition, 0, 50),
    row("13", "long-partition", Fault::LongPartition, 0, 10),
    row("13", "broker-silent", Fault::BrokerSilent, 0, 50),
    row("14", "slow-link", Fault::SlowLink, 0, 50),
    row("16", "idle-transaction", Fault::IdleTransaction, 0, 20),
    row(
        "18",
        "replaced-behind-a-sleeper",
        Fault::ReplacedBehindASleeper,
        0,
        20,
    ),
    row("20", "hot-subject", Fault::HotSubject, 1, 50),
    every(5, row("12", "wal-disk-full", Fault::WalDiskFull, 0, 20)),
    every(
        1,
        row("12", "broker-disk-full", Fault::BrokerDiskFull, 0, 20),
    ),
    every(10, row("15", "clock-jumps", Fault::ClockJumps, 0, 50)),
    every(1, row("7", "tail-lost", Fault::TailLost, 0, 20)),
];

const fn every(whole: u64, row: Row) -> Row {
    Row { whole, ..row }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Fault {
    /// What it takes and this machine does not have; `dir` is a folder to try it in.
    pub fn missing(self, dir: &Path) -> Option<String> {
        match self {
            Self::WalDiskFull | Self::BrokerDiskFull => Disk::missing(dir),
            Self::ClockJumps => Clock::missing(),
            _ => None,
        }
    }

    /// Does it, to a world under load; what it took away is back at the end, or its node does not run.
    pub async fn strike(self, world: &mut World) -> anyhow::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::NodeKilled => nodes::killed(world).await,
            Self::AllNodesKilled => nodes::all_killed(world).await,
            Self::StoppedWithLocks => nodes::stopped_with_locks(world).await,
            Self::ReplacedBehindASleeper => nodes::replaced_behind_a_sleeper(world).await,
            Self::PostgresKilled => database::killed(world).await,
            Self::BackendKilled => database::backend_killed(world).await,
            Self::CutAtCommit => database::cut_at_commit(world).await,
            Self::Partition => database::partition(world, 3_000).await,
            Self::LongPartition => database::partition(world, 9_000).await,
            Self::SlowLink => database::slow_link(world).await,
            Self::IdleTransaction => database::idle_transaction(world).await,
            Self::ClientsHangUp => subjects::clients_hang_up(world).await,
            Self::HotSubject => subjects::hot(world).await,
            Self::BrokerKilled => broker::killed(world).await,
            Self::BrokerSilent => broker::silent(world).await,
            Self::TailLost => broker::tail_lost(world).await,
            Self::RecordsRepeated => broker::repeated(world).await,
            Self::RebalanceStorm => projectors::storm(world).await,
            Self::ZombieProjector => projectors::zombie(world).await,
            Self::ProjectorKilled => projectors::killed(world).await,
            Self::WalDiskFull => disks::under_the_wal(world).await,
            Self::BrokerDiskFull => disks::under_the_broker(world).await,
            Self::ClockJumps => clocks::jump(world).await,
        }
    }
}
