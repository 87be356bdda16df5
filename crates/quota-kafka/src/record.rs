//! Records as they come and go.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};

/// A record read from a topic.
///
/// Key, payload and headers live in one buffer, so that a record costs three allocations
/// however many headers it has.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic it was read from, shared by all records of one reader.
    pub topic: Arc<str>,
    /// The topic's partition.
    pub partition: i32,
    /// The topic's own offset (not a ledger offset).
    pub offset: i64,
    /// Milliseconds since 1970, as the producer or the broker set them.
    pub timestamp_ms: Option<i64>,
    bytes: Vec<u8>,
    key: Option<Span>,
    payload: Option<Span>,
    headers: Vec<(Span, Option<Span>)>,
    unreadable_headers: usize,
}

/// A part of a record's buffer. Kafka's own lengths are 32 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Record {
    /// A record made by hand, for tests of those who consume records.
    pub fn new(
        topic: impl Into<Arc<str>>,
        partition: i32,
        offset: i64,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Self {
        let mut record = Self::empty(topic.into(), partition, offset);
        record.key = key.map(|bytes| record.keep(bytes));
        record.payload = payload.map(|bytes| record.keep(bytes));
        for (name, value) in headers {
            record.keep_header(name, *value);
        }
        record
    }

    pub(crate) fn read(topic: Arc<str>, message: &BorrowedMessage<'_>) -> Self {
        let mut record = Self::empty(topic, message.partition(), message.offset());
        record.timestamp_ms = message.timestamp().to_millis();
        let (key, payload) = (message.key(), message.payload());
        record.bytes = Vec::with_capacity(Self::room_for(key, payload, message));
        record.key = key.map(|bytes| record.keep(bytes));
        record.payload = payload.map(|bytes| record.keep(bytes));
        if let Some(headers) = message.headers() {
            record.headers = Vec::with_capacity(headers.count());
            for index in 0..headers.count() {
                // rdkafka panics on a name that is not UTF-8, and anyone who may write to an
                // inbox topic can send one.
                match catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) {
                    Ok(Some(header)) => record.keep_header(header.key, header.value),
                    Ok(None) => break,
                    Err(_) => record.unreadable_headers += 1,
                }
            }
        }
        record
    }

    /// Header sizes are not known without reading them; a guess saves most reallocations.
    fn room_for(
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        message: &BorrowedMessage<'_>,
    ) -> usize {
        let headers = message.headers().map_or(0, |headers| headers.count());
        key.map_or(0, <[u8]>::len) + payload.map_or(0, <[u8]>::len) + headers * 40
    }

    fn empty(topic: Arc<str>, partition: i32, offset: i64) -> Self {
        Self {
            topic,
            partition,
            offset,
            timestamp_ms: None,
            bytes: Vec::new(),
            key: None,
            payload: None,
            headers: Vec::new(),
            unreadable_headers: 0,
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let at = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let start = at(self.bytes.len());
        self.bytes.extend_from_slice(bytes);
        Span {
            start,
            end: at(self.bytes.len()),
        }
    }

    fn keep_header(&mut self, name: &str, value: Option<&[u8]>) {
        let name = self.keep(name.as_bytes());
        let value = value.map(|bytes| self.keep(bytes));
        self.headers.push((name, value));
    }

    fn part(&self, span: Span) -> &[u8] {
        self.bytes
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }

    /// What it takes up in memory, about.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>()
            + self.bytes.capacity()
            + self.headers.len() * size_of::<(Span, Option<Span>)>()
    }

    /// The key's bytes, if the record has a key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.map(|span| self.part(span))
    }

    /// The payload's bytes; `None` is a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        self.payload.map(|span| self.part(span))
    }

    /// All readable headers in the order sent. A name can come twice, a value can be null.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers.iter().map(|(name, value)| {
            let name = std::str::from_utf8(self.part(*name)).unwrap_or_default();
            (name, value.map(|span| self.part(span)))
        })
    }

    /// The value of the last header of that name, as Kafka's own clients choose it; `None` also
    /// where it is null.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self
            .headers
            .iter()
            .rev()
            .find(|(span, _)| self.part(*span) == name.as_bytes());
        found.and_then(|(_, value)| value.map(|span| self.part(span)))
    }

    /// How many headers were left out because their names are not UTF-8.
    pub fn unreadable_headers(&self) -> usize {
        self.unreadable_headers
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)?;
        write!(f, " key={:?}", self.key().map(String::from_utf8_lossy))?;
        write!(
            f,
            " payload={} bytes",
            self.payload().map_or(0, <[u8]>::len)
        )?;
        f.debug_list()
            .entries(self.headers().map(|(name, _)| name))
            .finish()
    }
}

/// The headers of a record to send, written at once into the library's own memory.
#[derive(Debug)]
pub struct Headers(OwnedHeaders);

impl Headers {
    /// No headers yet, with room for `capacity` of them.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(OwnedHeaders::new_with_capacity(capacity))
    }

    /// Adds a header; names may repeat.
    #[must_use]
    pub fn add(self, name: &str, value: &[u8]) -> Self {
        self.add_nullable(name, Some(value))
    }

    /// Adds a header whose value may be null, as [`Record::headers`] gives them.
    #[must_use]
    pub fn add_nullable(self, name: &str, value: Option<&[u8]>) -> Self {
        Self(self.0.insert(Header { key: name, value }))
    }

    pub(crate) fn into_inner(self) -> OwnedHeaders {
        self.0
    }
}

/// A record to send. It borrows what the library copies anyway.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The topic, which must exist.
    pub topic: &'a str,
    /// The partition; `None` lets the key choose (never do both on one topic).
    pub partition: Option<i32>,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The payload's bytes; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// The headers, if any.
    pub headers: Option<Headers>,
}
