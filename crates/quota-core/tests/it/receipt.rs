//! Receipts: what they prove, and that nothing of them can be changed.

use crate::checkpoint::{LEDGER, rows};
use quota_core::checkpoint::{Checkpoint, End, Signed};
use quota_core::digest::{genesis, row_digest};
use quota_core::receipt::Receipt;
use quota_core::row::Row;
use quota_core::time::Timestamp;

/// The receipt of one of these rows, by a checkpoint at the last.
fn receipt(rows: &[Row], index: usize) -> Receipt {
    let (row, last) = (&rows[index], rows.last().unwrap());
    let empty = |partition| End {
        offset: -1,
        hash: genesis(&LEDGER, partition),
    };
    let mut ends: Vec<End> = (0..64).map(empty).collect();
    ends[row.partition as usize] = End {
        offset: last.offset,
        hash: last.hash,
    };
    Receipt {
        row: row.clone(),
        previous: match index {
            0 => genesis(&LEDGER, row.partition),
            index => rows[index - 1].hash,
        },
        digests: rows[index + 1..].iter().map(row_digest).collect(),
        signed: Signed {
            checkpoint: Checkpoint {
                ledger_id: LEDGER,
                epoch: 0,
                at: Timestamp::from_micros(99),
                ends,
            },
            key: [1; 32],
            signature: [2; 64],
        },
    }
}

/// Fails when any one of the comparisons in `Receipt::check` is left out.
#[test]
fn a_receipt_proves_its_event_and_no_other() {
    let rows = rows(&[1, 2, 3, 4]);
    for index in 0..rows.len() {
        let good = receipt(&rows, index);
        assert_eq!(good.check(), Ok(()), "{index}");
        let text = good.to_json().unwrap();
        assert_eq!(Receipt::parse(&text).unwrap(), good);
        assert!(
            good.digests
                .iter()
                .all(|digest| !rows.iter().any(|row| row.hash == *digest))
        );
    }
    type Change = fn(&mut Receipt);
    let changes: [(&str, Change); 16] = [
        ("payload", |it| {
            it.row.payload = b"{\"amount\":9}".to_vec().into()
        }),
        ("subject", |it| it.row.subject = "u2".into()),
        ("product", |it| it.row.product = "other".into()),
        ("id", |it| it.row.id = "e9".into()),
        ("source", |it| it.row.source = "/other".into()),
        ("type", |it| it.row.event_type = "usage.denied".into()),
        ("occurred_at", |it| {
            it.row.occurred_at = Timestamp::from_micros(5)
        }),
        ("recorded_at", |it| {
            it.row.recorded_at = Timestamp::from_micros(5)
        }),
        ("offset", |it| it.row.offset += 1),
        ("subject_seq", |it| it.row.subject_seq += 1),
        ("hash", |it| it.row.hash[0] ^= 1),
        ("previous", |it| it.previous[0] ^= 1),
        ("a digest", |it| it.digests[0][0] ^= 1),
        ("a digest less", |it| it.digests.truncate(1)),
        ("a digest more", |it| it.digests.push([0; 32])),
        ("the checkpoint's end", |it| {
            let partition = it.row.partition as usize;
            it.signed.checkpoint.ends[partition].hash[0] ^= 1;
        }),
    ];
    for (what, change) in changes {
        let mut tampered = receipt(&rows, 1);
        change(&mut tampered);
        assert!(tampered.check().is_err(), "{what}");
    }
}

/// Keys that say somebody else's subject, a partition that is not the subject's, offsets beyond all bounds: refused, no panic.
///
/// Fails when the keys are believed, and when the partition is.
#[test]
fn a_receipt_of_a_made_up_row_proves_nothing() {
    let rows = rows(&[1, 2, 3]);
    let forged = |change: &dyn Fn(&mut Row)| {
        let mut forged = receipt(&rows[..1], 0);
        change(&mut forged.row);
        forged.row.hash = forged.row.expected_hash(&forged.previous);
        for end in &mut forged.signed.checkpoint.ends {
            *end = End {
                offset: forged.row.offset,
                hash: forged.row.hash,
            };
        }
        forged.check()
    };
    assert_eq!(forged(&|_| {}), Ok(()), "a row that is its own checkpoint");
    assert!(forged(&|row| row.subject = "somebody".into()).is_err());
    assert!(forged(&|row| row.subject_key[0] ^= 1).is_err());
    assert!(forged(&|row| row.event_key[0] ^= 1).is_err());
    assert!(forged(&|row| row.partition = (row.partition + 1) % 64).is_err());
    assert!(forged(&|row| row.partition = 64).is_err());
    assert!(forged(&|row| row.offset = i64::MIN).is_err());
    let mut far = receipt(&rows, 0);
    far.row.offset = i64::MAX;
    assert!(far.check().is_err());
    for text in ["", "{}", "[]", "null", "{\"row\": {}}"] {
        assert!(Receipt::parse(text.as_bytes()).is_err(), "{text}");
    }
    let text = String::from_utf8(receipt(&rows, 0).to_json().unwrap()).unwrap();
    let more = text.replacen('{', "{\"extra\": 1, ", 1);
    assert!(
        Receipt::parse(more.as_bytes()).is_err(),
        "an unknown member"
    );
}
