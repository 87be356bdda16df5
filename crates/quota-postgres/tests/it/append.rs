//! Appends: the fence, what is refused, and what an error says.

use crate::harness::{Writer, check_chain, sorted, subject_in, with_ledger};
use quota_core::row::Row;
use quota_postgres::{AppendError, Fence, Lane};
use sqlx::Connection as _;

/// One row in each of these partitions, and the fences they need.
fn batch(writer: &mut Writer, partitions: &[u32], id: &str) -> (Vec<Row>, Vec<Fence>) {
    let fences = partitions.iter().map(|p| writer.fence(*p)).collect();
    let of = |p: &u32| subject_in(*p, writer.info.partitions, "p", 0);
    let subjects: Vec<_> = partitions.iter().map(of).collect();
    let rows = subjects
        .iter()
        .map(|subject| writer.row("p", subject, id))
        .collect();
    (sorted(rows), fences)
}

async fn appended(
    lane: &mut Lane,
    batch: &(Vec<Row>, Vec<Fence>),
    all_or_nothing: bool,
) -> Vec<u32> {
    lane.append(&batch.0, &batch.1, all_or_nothing)
        .await
        .unwrap()
        .partitions
}

/// A partition where somebody else was faster stays out; the batch's other partitions go in.
///
/// Fails when `ledger_append` inserts whatever the fence says: then the primary key refuses the whole batch.
#[test]
fn a_stale_partition_stays_out_alone() {
    with_ledger(4, |database| async move {
        let (mut one, mut two) = (database.lane().await, database.lane().await);
        let (mut first, mut second) = (Writer::new(database.info), Writer::new(database.info));
        assert_eq!(
            appended(&mut one, &batch(&mut first, &[1], "x"), false).await,
            [1]
        );
        let late = batch(&mut second, &[0, 1, 3], "y");
        assert_eq!(appended(&mut two, &late, false).await, [0, 3]);
        let ledger = database.ledger().await;
        let counts = ledger
            .heads()
            .await
            .unwrap()
            .iter()
            .map(|head| head.offset)
            .collect::<Vec<_>>();
        assert_eq!(counts, [0, 0, -1, 0]);
        assert_eq!(&*check_chain(&ledger, 1).await[0].id, "x");
    });
}

/// With `all_or_nothing`, one stale partition keeps all of them out: a catalog is everywhere or nowhere.
///
/// Fails when `ledger_append` ignores the flag.
#[test]
fn all_or_nothing_means_it() {
    with_ledger(4, |database| async move {
        let mut lane = database.lane().await;
        let (mut first, mut second) = (Writer::new(database.info), Writer::new(database.info));
        assert_eq!(
            appended(&mut lane, &batch(&mut first, &[1], "x"), true).await,
            [1]
        );
        let late = batch(&mut second, &[0, 1, 3], "y");
        assert!(appended(&mut lane, &late, true).await.is_empty());
        let heads = database.ledger().await.heads().await.unwrap();
        assert_eq!(
            heads.iter().map(|head| head.offset).collect::<Vec<_>>(),
            [-1, 0, -1, -1]
        );
    });
}

/// Rows built on another history do not go in, though their offsets fit: a node that slept through a restore.
///
/// Fails when the fence compares offsets alone.
#[test]
fn another_history_stays_out() {
    with_ledger(1, |database| async move {
        let mut lane = database.lane().await;
        let (mut ours, mut theirs) = (Writer::new(database.info), Writer::new(database.info));
        assert_eq!(
            appended(&mut lane, &batch(&mut ours, &[0], "kept"), false).await,
            [0]
        );
        batch(&mut theirs, &[0], "lost in the restore");
        assert_eq!(theirs.head(0).offset, ours.head(0).offset);
        let next = batch(&mut theirs, &[0], "next");
        assert!(appended(&mut lane, &next, false).await.is_empty());
        assert_eq!(check_chain(&database.ledger().await, 0).await.len(), 1);
    });
}

/// A batch that leaves a gap stays out, in a partition with rows and in an empty one.
///
/// Fails without the fence: nothing else keeps offsets dense.
#[test]
fn a_gap_stays_out() {
    with_ledger(2, |database| async move {
        let mut lane = database.lane().await;
        let mut writer = Writer::new(database.info);
        assert_eq!(
            appended(&mut lane, &batch(&mut writer, &[0], "a"), false).await,
            [0]
        );
        batch(&mut writer, &[0, 1], "never sent");
        let beyond = batch(&mut writer, &[0, 1], "c");
        assert!(appended(&mut lane, &beyond, false).await.is_empty());
    });
}

/// What could never be put right afterwards is refused before it is sent.
///
/// Fails when `Batch::new` stops checking offsets, hashes or fences.
#[test]
fn a_wrong_batch_is_refused() {
    with_ledger(2, |database| async move {
        let mut lane = database.lane().await;
        let (rows, fences) = batch(&mut Writer::new(database.info), &[0, 1], "a");
        let mut unchained = rows.clone();
        unchained[1].hash[0] ^= 1;
        let mut changed = rows.clone();
        changed[0].payload = b"{}".as_slice().into();
        let mut later = rows.clone();
        later[0].offset += 1;
        let mut zero = rows.clone();
        zero[0].subject = "a\0b".into();
        zero[0].hash = zero[0].expected_hash(&fences[0].previous_hash);
        let mut beyond = fences.clone();
        beyond[1].partition = 2;
        let swapped = vec![fences[1], fences[0]];
        let backwards: Vec<_> = rows.iter().rev().cloned().collect();
        for (what, rows, fences) in [
            ("a hash that is not the row's", &unchained, &fences),
            ("a changed payload", &changed, &fences),
            ("an offset that does not follow", &later, &fences),
            ("a zero character", &zero, &fences),
            ("a partition that does not exist", &rows, &beyond),
            ("fences out of order", &rows, &swapped),
            ("rows out of order", &backwards, &fences),
            ("a row without a fence", &rows, &fences[..1].to_vec()),
        ] {
            let refused = lane.append(rows, fences, false).await;
            assert!(
                matches!(refused, Err(AppendError::Invalid(_))),
                "{what}: {refused:?}"
            );
        }
        assert_eq!(
            lane.append(&rows, &fences, false).await.unwrap().partitions,
            [0, 1]
        );
    });
}

/// A fence without rows asks whether its partition is still where it was: what an answer that records nothing rests on.
///
/// Fails when such fences are left out of the comparison.
#[test]
fn a_fence_without_rows_is_compared() {
    with_ledger(2, |database| async move {
        let mut lane = database.lane().await;
        let mut writer = Writer::new(database.info);
        let empty = [writer.fence(0), writer.fence(1)];
        assert_eq!(
            lane.append(&[], &empty, false).await.unwrap().partitions,
            [0, 1]
        );
        assert_eq!(
            appended(&mut lane, &batch(&mut writer, &[0], "a"), false).await,
            [0]
        );
        assert_eq!(
            lane.append(&[], &empty, false).await.unwrap().partitions,
            [1]
        );
        let (rows, fences) = batch(&mut writer, &[0], "b");
        let mixed = [fences[0], empty[1]];
        assert_eq!(
            lane.append(&rows, &mixed, false).await.unwrap().partitions,
            [0, 1]
        );
        assert_eq!(database.ledger().await.heads().await.unwrap()[1].offset, -1);
    });
}

/// An event that is recorded already is refused as such, with all of its batch; the lane goes on.
///
/// Fails without the unique index, and when its violation is not told apart by its name.
#[test]
fn an_event_is_recorded_once() {
    with_ledger(2, |database| async move {
        let mut lane = database.lane().await;
        let mut writer = Writer::new(database.info);
        assert_eq!(
            appended(&mut lane, &batch(&mut writer, &[0], "same"), false).await,
            [0]
        );
        let heads = database.ledger().await.heads().await.unwrap();
        let again = batch(&mut writer, &[0, 1], "same");
        let refused = lane.append(&again.0, &again.1, false).await;
        assert!(
            matches!(refused, Err(AppendError::DuplicateEvent)),
            "{refused:?}"
        );
        assert_eq!(database.ledger().await.heads().await.unwrap(), heads);
        writer.reset(heads);
        assert_eq!(
            appended(&mut lane, &batch(&mut writer, &[1], "other"), false).await,
            [1]
        );
    });
}

/// Behind the fence stands the primary key: a writer without locks, whose row the fence cannot see yet, wins or loses
/// the offset as a whole.
///
/// Fails when `AppendError` does not tell this violation from the other.
#[test]
fn a_writer_without_locks_takes_no_offset_twice() {
    with_ledger(1, |database| async move {
        let mut lane = database.lane().await;
        let (mut ours, mut theirs) = (Writer::new(database.info), Writer::new(database.info));
        let mut rogue = database.owner().await;
        let mut transaction = rogue.begin().await.unwrap();
        insert_unlocked(&mut transaction, &batch(&mut theirs, &[0], "rogue").0[0]).await;
        let (rows, fences) = batch(&mut ours, &[0], "ours");
        let append = tokio::spawn(async move { lane.append(&rows, &fences, false).await });
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        transaction.commit().await.unwrap();
        let refused = append.await.unwrap();
        assert!(
            matches!(refused, Err(AppendError::DuplicateOffset)),
            "{refused:?}"
        );
        assert_eq!(check_chain(&database.ledger().await, 0).await.len(), 1);
    });
}

/// An acknowledgement comes after the commit, not with the first row of the answer: a constraint that is checked only at
/// commit is still seen.
///
/// Fails when `Lane::append` returns before the server is ready for the next query.
#[test]
fn an_ack_comes_after_the_commit() {
    with_ledger(1, |database| async move {
        let mut owner = database.owner().await;
        crate::harness::sql(
            &mut owner,
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'late'; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
        let mut lane = database.lane().await;
        let (rows, fences) = batch(&mut Writer::new(database.info), &[0], "a");
        let refused = lane.append(&rows, &fences, false).await;
        assert!(
            matches!(refused, Err(AppendError::Unavailable(_))),
            "{refused:?}"
        );
        assert_eq!(lane.heads_of(&[0]).await.unwrap()[0].1.offset, -1);
    });
}

/// In a transaction, nothing is there until it commits, and after an error it cannot commit.
#[test]
fn a_transaction_is_all_or_nothing() {
    with_ledger(2, |database| async move {
        let mut lane = database.lane().await;
        let ledger = database.ledger().await;
        let mut writer = Writer::new(database.info);
        lane.lock(&[1, 0]).await.unwrap();
        assert_eq!(
            appended(&mut lane, &batch(&mut writer, &[0], "a"), false).await,
            [0]
        );
        assert_eq!(lane.heads_of(&[0]).await.unwrap()[0].1, writer.head(0));
        assert_eq!(ledger.heads().await.unwrap()[0].offset, -1);
        lane.rollback().await.unwrap();
        assert_eq!(ledger.heads().await.unwrap()[0].offset, -1);

        let mut writer = Writer::new(database.info);
        lane.lock(&[0]).await.unwrap();
        let twice = batch(&mut writer, &[0], "b");
        assert_eq!(appended(&mut lane, &twice, false).await, [0]);
        let again = batch(&mut writer, &[0], "b");
        assert!(matches!(
            lane.append(&again.0, &again.1, false).await,
            Err(AppendError::DuplicateEvent)
        ));
        assert!(matches!(
            lane.commit().await,
            Err(AppendError::Unavailable(_))
        ));
        assert_eq!(ledger.heads().await.unwrap()[0].offset, -1);

        lane.lock(&[0]).await.unwrap();
        assert_eq!(appended(&mut lane, &twice, false).await, [0]);
        lane.commit().await.unwrap();
        assert_eq!(ledger.heads().await.unwrap()[0].offset, 0);
    });
}

/// Puts a row in beside `ledger_append`.
async fn insert_unlocked(connection: &mut sqlx::PgConnection, row: &Row) {
    sqlx::query(
        r#"INSERT INTO ledger (partition, "offset", subject_key, subject_seq, event_key, product, subject, source, id,
                               type, type_version, occurred_at, recorded_at, catalog_version, payload, hash)
           VALUES ($1, $2, $3, 1, $4, $5, $6, $7, $8, $9, 1, $10, $11, 1, $12, $13)"#,
    )
    .bind(row.partition as i32)
    .bind(row.offset)
    .bind(&row.subject_key[..])
    .bind(&row.event_key[..])
    .bind(&*row.product)
    .bind(&*row.subject)
    .bind(&*row.source)
    .bind(&*row.id)
    .bind(&*row.event_type)
    .bind(row.occurred_at.micros())
    .bind(row.recorded_at.micros())
    .bind(&*row.payload)
    .bind(&row.hash[..])
    .execute(connection)
    .await
    .unwrap();
}
