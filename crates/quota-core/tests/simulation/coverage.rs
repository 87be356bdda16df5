//! What was really hit: situations and operations, counted where they happen.

use std::fmt;

macro_rules! counted {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $words:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }
        }
    };
}

counted! {
    /// An operation: one step of one of the product's rules on one item. The model's own steps are not counted.
    Op {
        Decided = "commands decided by a lane, each round anew",
        Fenced = "partitions whose fence an append compared",
        Appended = "rows appended",
        Looked = "event keys looked up",
        Loaded = "subjects loaded from view and tail",
        Relayed = "rows published by a relay",
        Delivered = "records handed to a follower",
        Healed = "rows handed to a follower from the ledger",
        Cached = "rows taken into a subject cache",
        Projected = "rows folded into views",
        Saved = "steps of checkpoints compared and set",
        Judged = "inbox records judged",
        Settled = "inbox commands settled",
        Checked = "checks answered",
    }
}

counted! {
    /// A situation that a run has to come into; one that never comes up fails it.
    Hit {
        TwoNodes = "worlds of two nodes",
        ThreeNodes = "worlds of three nodes",
        FourNodes = "worlds of four nodes",
        FiveNodes = "worlds of five nodes",
        CrashLoad = "crash while a lane waits for what it loads",
        CrashLock = "crash while a lane waits for its locks",
        CrashAppend = "crash while an append is on its way",
        CrashCommit = "crash while a commit is on its way",
        CrashRead = "crash while a lane reads what others appended",
        CrashProjector = "crash while a projector waits for the ledger",
        CrashInbox = "crash while an inbox's commands are with the lane",
        CrashCommitOffset = "crash before an inbox's offset is committed",
        CrashIdle = "crash while a task waits for mail",
        NodeJoined = "a node started again",
        DatabaseCrash = "the database crashed, with all its sessions",
        DatabaseDown = "a session refused, since the database is down",
        BadLine = "a node whose line to the database is bad for seconds",
        LostRequest = "a request that never arrived",
        LostReply = "a reply that never arrived",
        LateReply = "a reply that came a second late or later",
        AmbiguousIn = "an append of unknown outcome that was found in the ledger",
        AmbiguousOut = "an append of unknown outcome that was not found",
        ZombieIn = "an append that landed after its lane had given it up",
        ZombieStale = "an append that came after its lane had given it up, and was stopped by its fence",
        ZombieCut = "an append of a node that had crashed landed",
        IdleCut = "a transaction cut since its session stood still",
        LockTimeout = "locks that could not be had in time",
        LockWait = "locks waited for",
        Stale = "a partition whose rows lost their race",
        PartlyIn = "an append of which some partitions went in and others did not",
        DuplicateEvent = "an append stopped by an event's key",
        LockedRound = "a round under locks, after a lost race",
        GivenUp = "a command given up by its caller before its next round",
        Doubted = "a command left in doubt, and told so",
        Late = "a command that waited too long and was never decided",
        Unavailable = "503: surely nothing recorded",
        Unknown = "504: outcome unknown",
        CrashUnknown = "a caller whose node crashed before it answered",
        Retried = "a retry under the same key",
        RetriedLong = "a retry a day or more later",
        Replayed = "a retry that got the first outcome",
        Conflict = "the same id with other content: a conflict",
        SameIdElsewhere = "the same subject and id in another product",
        Allowed = "a consume that was allowed",
        Denied = "a consume that was denied and recorded",
        DeniedAgain = "a denial not recorded again",
        TooManyDenials = "an hour's denials used up",
        AtLimit = "the last unit under a limit",
        Held = "units held",
        Confirmed = "a hold confirmed",
        Released = "a hold released",
        HoldOver = "a hold whose time was over first",
        Purchased = "a purchase",
        SamePayment = "the same payment told again",
        Renewed = "a purchase that is a renewal",
        Expired = "an expiry noticed before a decision",
        Swept = "an expiry noticed by a sweep",
        InGrace = "a use in a plan's grace",
        AfterEnd = "a use after a paid plan's end",
        Cancelled = "a cancellation",
        NewDay = "a window of a day that began anew",
        NewPeriod = "a paid period that began anew",
        LateFact = "a fact told late",
        OverLimit = "a published fact beyond a limit",
        Flagged = "a superadmin's use",
        Imported = "usage imported",
        Adjusted = "units given by a person",
        ResourceMade = "a resource made",
        ResourceTwice = "a resource made again",
        ResourceDeleted = "a resource deleted",
        ResourceLocked = "a use refused since its purchase had ended",
        SessionOpened = "a session opened",
        SessionShared = "an active session found",
        SessionSuperseded = "a session superseded",
        SessionRefused = "a session refused",
        SessionCompleted = "a session completed",
        Published = "a catalog published in the middle",
        PublishedNothing = "a catalog's publication that failed or lost",
        ClockForward = "the database's clock went ahead",
        ClockBack = "the database's clock went back",
        ClockBehind = "a decision refused since the clock stands behind the ledger",
        NodeClock = "a node's own clock jumped",
        Warp = "days and months without a request",
        KafkaDown = "a publication refused, since Kafka is down",
        PublishLost = "a publication whose acknowledgement was lost",
        PublishPartly = "a publication of which only a part landed",
        OutOfSequence = "a producer refused, since the broker has lost a part of its sequence",
        BlindSpot = "records lost between a relay's look at the topic's end and what it published next",
        TwoRelays = "two relays at one partition",
        Truncated = "records cut off the topic's end",
        Recreated = "the topic made anew, empty",
        WentBack = "a relay that went back to what the topic had lost",
        Redelivered = "records delivered again",
        Reordered = "records delivered out of order",
        Skipped = "records never delivered to a consumer",
        FollowerDropped = "a record dropped, since it was seen",
        FollowerHealed = "a hole healed from the ledger",
        CacheLate = "a load that raced with a commit, and was not kept",
        Evicted = "a subject dropped from a cache",
        ProjectorLost = "a projector's step stopped by compare-and-set",
        ProjectorStrange = "a view that was not what the checkpoint spoke of",
        ProjectorUnknown = "a projector's step whose outcome was lost",
        Rebalanced = "partitions handed to another projector",
        InboxRebalanced = "an inbox handed to another node",
        InboxAgain = "an inbox record delivered again, and found recorded",
        InboxRetried = "inbox commands tried again",
        InboxFenced = "a commit of offsets refused, since its node had lost the inbox",
        DeadLetter = "a dead letter, with its reason",
        OwnWrite = "a check that asked for what was just written, on any node",
        CheckJudged = "a check held against the oracle's own count",
        NeverOlder = "a position that a check could not reach, told as an error",
    }
}

/// Counts of one world, or of many.
#[derive(Clone, Debug)]
pub struct Coverage {
    hits: Vec<u64>,
    ops: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            hits: vec![0; Hit::ALL.len()],
            ops: vec![0; Op::ALL.len()],
        }
    }
}

impl Coverage {
    pub fn hit(&mut self, what: Hit) {
        self.hits[what as usize] += 1;
    }

    pub fn did(&mut self, what: Op, count: usize) {
        self.ops[what as usize] += count as u64;
    }

    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.hits.iter_mut().zip(&other.hits) {
            *sum += more;
        }
        for (sum, more) in self.ops.iter_mut().zip(&other.ops) {
            *sum += more;
        }
    }

    pub fn operations(&self) -> u64 {
        self.ops.iter().sum()
    }

    /// The situations that never came up.
    pub fn missing(&self) -> Vec<&'static str> {
        let never = |hit: &&Hit| self.hits[**hit as usize] == 0;
        Hit::ALL
            .iter()
            .filter(never)
            .map(|hit| hit.words())
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "situations:")?;
        for hit in Hit::ALL {
            writeln!(f, "{:>12}  {}", self.hits[*hit as usize], hit.words())?;
        }
        writeln!(f, "operations:")?;
        for op in Op::ALL {
            writeln!(f, "{:>12}  {}", self.ops[*op as usize], op.words())?;
        }
        write!(f, "{:>12}  operations in all", self.operations())
    }
}
