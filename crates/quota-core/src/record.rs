//! The Kafka face of a row: the headers, key and value of its record, and back.
//!
//! Headers are those of CloudEvents' Kafka binding in binary mode, none of them percent-encoded, and those that make
//! the record a row again: all but `subject_prev`, which whoever appends a row knows from the subject's events before.
//! An empty product or subject, as the ledger's own events have them, has no header: CloudEvents knows no empty
//! attributes.

use crate::digest::{Hash, event_key, subject_key};
use crate::row::Row;
use crate::time::Timestamp;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// The most headers that a record has.
pub const HEADERS: usize = 16;
/// What every payload is.
const CONTENT_TYPE: &str = "application/json";

/// A row as a record of the ledger's topic; its partition is the row's own.
#[derive(Debug)]
pub struct LedgerRecord<'r> {
    row: &'r Row,
    /// All that is not in the row as it is on the wire, one after the other.
    text: String,
    key: Range<usize>,
    event_type: Range<usize>,
    occurred_at: Range<usize>,
    recorded_at: Range<usize>,
    ledger_id: Range<usize>,
    epoch: Range<usize>,
    partition: Range<usize>,
    offset: Range<usize>,
    subject_seq: Range<usize>,
    catalog_version: Range<usize>,
    hash: Range<usize>,
}

/// The record of a row in a ledger of that id, published in that epoch.
#[must_use]
pub fn to_record<'r>(row: &'r Row, ledger_id: &[u8; 16], epoch: u32) -> LedgerRecord<'r> {
    let mut text = Text(String::with_capacity(
        row.product.len() + row.subject.len() + row.event_type.len() + 288,
    ));
    LedgerRecord {
        key: text.add(|text| {
            text.push_str(&row.product);
            text.push('/');
            text.push_str(&row.subject);
        }),
        event_type: text.add(|text| {
            text.push_str("quota.");
            text.push_str(&row.event_type);
            text.push_str(".v");
            push_number(text, u64::from(row.type_version));
        }),
        occurred_at: text.add(|text| push_instant(text, row.occurred_at)),
        recorded_at: text.add(|text| push_instant(text, row.recorded_at)),
        ledger_id: text.add(|text| {
            let mut buffer = uuid::Uuid::encode_buffer();
            let id = uuid::Uuid::from_bytes(*ledger_id);
            text.push_str(id.hyphenated().encode_lower(&mut buffer));
        }),
        epoch: text.add(|text| push_number(text, u64::from(epoch))),
        partition: text.add(|text| push_number(text, u64::from(row.partition))),
        offset: text.add(|text| push_signed(text, row.offset)),
        subject_seq: text.add(|text| push_signed(text, row.subject_seq)),
        catalog_version: text.add(|text| push_number(text, u64::from(row.catalog_version))),
        hash: text.add(|text| push_hex(text, &row.hash)),
        text: text.0,
        row,
    }
}

impl<'r> LedgerRecord<'r> {
    /// The key: `product/subject`.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.part(&self.key)
    }

    /// The value: the payload's own bytes.
    #[must_use]
    pub fn value(&self) -> &'r [u8] {
        &self.row.payload
    }

    /// The headers, in a fixed order.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let row = self.row;
        let all: [(&'static str, &[u8]); HEADERS] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", row.id.as_bytes()),
            ("ce_source", row.source.as_bytes()),
            ("ce_type", self.part(&self.event_type)),
            ("ce_subject", row.subject.as_bytes()),
            ("ce_time", self.part(&self.occurred_at)),
            ("content-type", CONTENT_TYPE.as_bytes()),
            ("ce_product", row.product.as_bytes()),
            ("ce_ledgerid", self.part(&self.ledger_id)),
            ("ce_epoch", self.part(&self.epoch)),
            ("ce_partition", self.part(&self.partition)),
            ("ce_offset", self.part(&self.offset)),
            ("ce_subjectseq", self.part(&self.subject_seq)),
            ("ce_hash", self.part(&self.hash)),
            ("ce_catalogversion", self.part(&self.catalog_version)),
            ("ce_recordedtime", self.part(&self.recorded_at)),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty())
    }

    fn part(&self, range: &Range<usize>) -> &[u8] {
        self.text.as_bytes().get(range.clone()).unwrap_or_default()
    }
}

/// A buffer that tells where each addition stands.
struct Text(String);

impl Text {
    fn add(&mut self, write: impl FnOnce(&mut String)) -> Range<usize> {
        let start = self.0.len();
        write(&mut self.0);
        start..self.0.len()
    }
}

fn push_number(text: &mut String, number: u64) {
    let mut digits = [b'0'; 20];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    let skipped = digits.len() - used;
    text.extend(digits.iter().skip(skipped).map(|digit| char::from(*digit)));
}

fn push_signed(text: &mut String, number: i64) {
    if number < 0 {
        text.push('-');
    }
    push_number(text, number.unsigned_abs());
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| {
        DIGITS
            .get(usize::from(nibble))
            .map_or('0', |digit| char::from(*digit))
    };
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
}

fn push_instant(text: &mut String, instant: Timestamp) {
    use std::fmt::Write as _;
    // Writing to a string cannot fail.
    let _ = write!(text, "{instant}");
}

/// A record that is no row of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A header is not there.
    #[error("the record has no header {0}")]
    Missing(&'static str),
    /// A header cannot be read.
    #[error("the record's header {0} cannot be read")]
    Unreadable(&'static str),
    /// There is no value.
    #[error("the record has no value")]
    NoValue,
}

/// A row that came in a record: all of it but `subject_prev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The id of the ledger that it is a row of.
    pub ledger_id: [u8; 16],
    /// The epoch that it was published in.
    pub epoch: u32,
    row: Row,
}

impl Received {
    /// Its offset in its partition.
    #[must_use]
    pub const fn offset(&self) -> i64 {
        self.row.offset
    }

    /// The row as it came, with no `subject_prev`.
    #[must_use]
    pub const fn as_row(&self) -> &Row {
        &self.row
    }

    /// The row, in a chain whose events before give `subject_prev`: none where `subject_seq` is 1. With a wrong one
    /// the row does not match its hash.
    #[must_use]
    pub fn into_row(self, subject_prev: Option<i64>) -> Row {
        Row {
            subject_prev,
            ..self.row
        }
    }

    /// The row with no `subject_prev`, for those who fold or show it and never hash it.
    #[must_use]
    pub fn into_unchained(self) -> Row {
        self.row
    }
}

/// What a consumer needs to drop a record that it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The epoch that it was published in.
    pub epoch: u32,
    /// Its offset in its partition.
    pub offset: i64,
    /// Its number among its subject's events.
    pub subject_seq: i64,
}

/// Reads three headers and nothing else; none where they are not all there.
#[must_use]
pub fn peek<'a>(headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Option<Peek> {
    let (mut epoch, mut offset, mut subject_seq) = (None, None, None);
    for (name, value) in headers {
        match name {
            "ce_epoch" => epoch = value,
            "ce_offset" => offset = value,
            "ce_subjectseq" => subject_seq = value,
            _ => {}
        }
    }
    Some(Peek {
        epoch: number(epoch?)?,
        offset: number(offset?)?,
        subject_seq: number(subject_seq?)?,
    })
}

/// Reads a record of the ledger's topic back. Of a header that stands twice the last counts; others are ignored.
///
/// # Errors
/// The first header that is missing or unreadable.
pub fn from_record<'a>(
    headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    value: Option<&[u8]>,
) -> Result<Received, RecordError> {
    let found = Found::collect(headers);
    let (event_type, type_version) = found.event_type()?;
    let (product, subject) = (
        found.or_empty("ce_product", found.product)?,
        found.or_empty("ce_subject", found.subject)?,
    );
    let (source, id) = (name("ce_source", found.source)?, name("ce_id", found.id)?);
    let row = Row {
        partition: parsed("ce_partition", found.partition)?,
        offset: parsed("ce_offset", found.offset)?,
        subject_key: subject_key(product, subject),
        subject_seq: parsed("ce_subjectseq", found.subject_seq)?,
        subject_prev: None,
        event_key: event_key(product, subject, source, id),
        product: product.into(),
        subject: subject.into(),
        source: source.into(),
        id: id.into(),
        event_type: event_type.into(),
        type_version,
        occurred_at: instant("ce_time", found.time)?,
        recorded_at: instant("ce_recordedtime", found.recorded_time)?,
        catalog_version: parsed("ce_catalogversion", found.catalog_version)?,
        payload: value.map(Arc::from).ok_or(RecordError::NoValue)?,
        hash: found.hash()?,
    };
    let ledger_id = text("ce_ledgerid", found.ledger_id)?;
    let ledger_id =
        uuid::Uuid::try_parse(ledger_id).map_err(|_| RecordError::Unreadable("ce_ledgerid"))?;
    Ok(Received {
        ledger_id: ledger_id.into_bytes(),
        epoch: parsed("ce_epoch", found.epoch)?,
        row,
    })
}

/// The headers of a ledger record, as found.
#[derive(Default)]
struct Found<'a> {
    id: Option<&'a [u8]>,
    source: Option<&'a [u8]>,
    event_type: Option<&'a [u8]>,
    subject: Option<&'a [u8]>,
    time: Option<&'a [u8]>,
    product: Option<&'a [u8]>,
    ledger_id: Option<&'a [u8]>,
    epoch: Option<&'a [u8]>,
    partition: Option<&'a [u8]>,
    offset: Option<&'a [u8]>,
    subject_seq: Option<&'a [u8]>,
    hash: Option<&'a [u8]>,
    catalog_version: Option<&'a [u8]>,
    recorded_time: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn collect(headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            let place = match name {
                "ce_id" => &mut found.id,
                "ce_source" => &mut found.source,
                "ce_type" => &mut found.event_type,
                "ce_subject" => &mut found.subject,
                "ce_time" => &mut found.time,
                "ce_product" => &mut found.product,
                "ce_ledgerid" => &mut found.ledger_id,
                "ce_epoch" => &mut found.epoch,
                "ce_partition" => &mut found.partition,
                "ce_offset" => &mut found.offset,
                "ce_subjectseq" => &mut found.subject_seq,
                "ce_hash" => &mut found.hash,
                "ce_catalogversion" => &mut found.catalog_version,
                "ce_recordedtime" => &mut found.recorded_time,
                _ => continue,
            };
            *place = value;
        }
        found
    }

    fn event_type(&self) -> Result<(&'a str, u16), RecordError> {
        let whole = text("ce_type", self.event_type)?;
        let parts = whole
            .strip_prefix("quota.")
            .and_then(|rest| rest.rsplit_once(".v"));
        let parts = parts.and_then(|(name, version)| Some((name, number(version.as_bytes())?)));
        parts.ok_or(RecordError::Unreadable("ce_type"))
    }

    fn or_empty(
        &self,
        name: &'static str,
        value: Option<&'a [u8]>,
    ) -> Result<&'a str, RecordError> {
        value.map_or(Ok(""), |value| text(name, Some(value)))
    }

    fn hash(&self) -> Result<Hash, RecordError> {
        let digits = self.hash.ok_or(RecordError::Missing("ce_hash"))?;
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| RecordError::Unreadable("ce_hash"))?;
        Ok(hash)
    }
}

/// A text that no row has empty: written again, an empty one would have no header.
fn name<'a>(header: &'static str, value: Option<&'a [u8]>) -> Result<&'a str, RecordError> {
    match text(header, value)? {
        "" => Err(RecordError::Unreadable(header)),
        name => Ok(name),
    }
}

fn text<'a>(name: &'static str, value: Option<&'a [u8]>) -> Result<&'a str, RecordError> {
    let value = value.ok_or(RecordError::Missing(name))?;
    str::from_utf8(value).map_err(|_| RecordError::Unreadable(name))
}

fn parsed<T: FromStr>(name: &'static str, value: Option<&[u8]>) -> Result<T, RecordError> {
    let value = value.ok_or(RecordError::Missing(name))?;
    number(value).ok_or(RecordError::Unreadable(name))
}

/// Digits alone: no sign, no space.
fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    let text = plain.then(|| str::from_utf8(digits).ok()).flatten()?;
    text.parse().ok()
}

fn instant(name: &'static str, value: Option<&[u8]>) -> Result<Timestamp, RecordError> {
    Timestamp::parse(text(name, value)?).ok_or(RecordError::Unreadable(name))
}
