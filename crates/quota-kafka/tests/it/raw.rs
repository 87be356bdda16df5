//! A record that no well-behaved client would send, written to the broker by hand: its header's
//! name is not UTF-8. rdkafka panics when it reads such a name.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use quota_kafka::Follower;

use crate::support::{brokers, follow, outgoing};

#[tokio::test]
async fn a_header_with_an_unreadable_name_harms_nobody() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(1).await?;
        let mut follower = Follower::open(&broker.settings(), &topic, &[0]).await?;
        let headers: [(&[u8], &[u8]); 3] =
            [(b"before", b"1"), (b"\xff\xfe", b"2"), (b"after", b"3")];
        produce(broker.settings().brokers(), &topic, b"payload", &headers)?;
        broker
            .publisher()?
            .send(vec![outgoing(&topic, 0, "next")])
            .await?;
        let records = follow(&mut follower, 2).await?;
        assert_eq!(records[0].payload(), Some(&b"payload"[..]));
        assert_eq!(records[0].unreadable_headers(), 1);
        let names: Vec<_> = records[0].headers().collect();
        assert_eq!(
            names,
            [("before", Some(&b"1"[..])), ("after", Some(&b"3"[..]))]
        );
        assert_eq!(
            (records[1].payload(), records[1].unreadable_headers()),
            (Some(&b"next"[..]), 0)
        );
    }
    Ok(())
}

/// Produce request, version 3, with one record for partition 0.
fn produce(
    broker: &str,
    topic: &str,
    payload: &[u8],
    headers: &[(&[u8], &[u8])],
) -> anyhow::Result<()> {
    let batch = batch(payload, headers);
    let mut request = Vec::new();
    request.extend([0, 0, 0, 3, 0, 0, 0, 7, 0xff, 0xff]); // produce, version, number, no client id
    request.extend([0xff, 0xff, 0xff, 0xff]); // no transaction, acks from all
    request.extend(10_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(i16::try_from(topic.len())?.to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(0_i32.to_be_bytes());
    request.extend(i32::try_from(batch.len())?.to_be_bytes());
    request.extend(batch);
    let mut stream = TcpStream::connect(broker)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut reply)?;
    // Number, count of topics, name, count of partitions, partition; then the error.
    let error = 4 + 4 + 2 + topic.len() + 4 + 4;
    anyhow::ensure!(
        reply.get(error..error + 2) == Some(&[0, 0]),
        "refused: {reply:?}"
    );
    Ok(())
}

/// A batch of one record, format 2.
fn batch(payload: &[u8], headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut record = vec![0, 0, 0]; // attributes, time and offset deltas
    varint(&mut record, -1); // no key
    sized(&mut record, payload);
    varint(&mut record, headers.len() as i64);
    for (name, value) in headers {
        sized(&mut record, name);
        sized(&mut record, value);
    }
    let mut checked = vec![0; 2 + 4]; // attributes, last offset delta
    checked.extend(1_767_225_600_000_i64.to_be_bytes().repeat(2)); // first and last time
    checked.extend([0xff; 8 + 2 + 4]); // no producer id, epoch, sequence
    checked.extend(1_i32.to_be_bytes());
    sized(&mut checked, &record);
    let mut batch = vec![0; 8]; // base offset
    batch.extend((checked.len() as i32 + 4 + 1 + 4).to_be_bytes());
    batch.extend([0xff; 4]); // leader epoch
    batch.push(2);
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

fn sized(buffer: &mut Vec<u8>, bytes: &[u8]) {
    varint(buffer, bytes.len() as i64);
    buffer.extend(bytes);
}

fn varint(buffer: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        buffer.push(left as u8 | 0x80);
        left >>= 7;
    }
    buffer.push(left as u8);
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
