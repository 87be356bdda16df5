//! Lines of a file of existing users: CSV or NDJSON, read one by one, so that a file may be of any size.

use anyhow::{Context as _, bail};
use csv::{ByteRecord, Reader, ReaderBuilder, Trim};
use quota_core::door::parse_json;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// The members of a line; the first three are in every one.
const MEMBERS: [&str; 7] = [
    "subject",
    "feature",
    "amount",
    "plan",
    "ends_at",
    "time",
    "superadmin",
];
const REQUIRED: usize = 3;
/// The most bytes that one line may have.
const LINE_MAX: u64 = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line: its number in the file, from 1, and its members, or why it has none and which is to blame.
pub struct Line {
    /// Its number.
    pub number: u64,
    /// What it says.
    pub members: Result<Map<String, Value>, (Option<String>, String)>,
}

/// A file's lines.
pub enum Lines {
    /// Comma-separated, with a header.
    Csv(Csv),
    /// A JSON object a line.
    Json(Json),
}

/// A CSV file's lines.
pub struct Csv {
    reader: Reader<Portion>,
    columns: Vec<String>,
    record: ByteRecord,
}

/// What of a file may be read for one line: where a quotation mark is left open, all that follows is one.
struct Portion {
    file: BufReader<File>,
    left: usize,
}

impl Portion {
    /// A line, and what the reader behind this takes ahead.
    const WHOLE: usize = 2 * LINE_MAX as usize;
}

impl Read for Portion {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let message =
                format!("this line has more than {LINE_MAX} bytes; is a quotation mark left open?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let most = self.left.min(buffer.len());
        let read = self.file.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.left -= read;
        Ok(read)
    }
}

/// An NDJSON file's lines.
pub struct Json {
    reader: BufReader<File>,
    number: u64,
}

impl Lines {
    /// Opens a file. What begins with a brace is NDJSON, everything else CSV.
    ///
    /// # Errors
    /// It cannot be read, or its header is wrong.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let mut reader = BufReader::new(file);
        let start = reader
            .fill_buf()
            .with_context(|| path.display().to_string())?;
        if start.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
        }
        let start = reader.buffer().trim_ascii_start();
        let lines = if start.starts_with(b"{") {
            Ok(Self::Json(Json { reader, number: 0 }))
        } else {
            Csv::open(reader).map(Self::Csv)
        };
        lines.with_context(|| path.display().to_string())
    }
}

impl Iterator for Lines {
    type Item = anyhow::Result<Line>;

    /// The next line, or why the file cannot be read on.
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Csv(csv) => csv.read(),
            Self::Json(json) => json.read(),
        }
        .transpose()
    }
}

impl Csv {
    fn open(file: BufReader<File>) -> anyhow::Result<Self> {
        let left = Portion::WHOLE;
        let mut reader = ReaderBuilder::new()
            .trim(Trim::All)
            .flexible(true)
            .from_reader(Portion { file, left });
        let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        for (place, column) in columns.iter().enumerate() {
            if !MEMBERS.contains(&column.as_str()) {
                bail!(
                    "the header has {column:?}; there are {}",
                    MEMBERS.join(", ")
                );
            }
            if columns.iter().take(place).any(|other| other == column) {
                bail!("the header has {column} twice");
            }
        }
        for column in MEMBERS.iter().take(REQUIRED) {
            if !columns.iter().any(|other| other == column) {
                bail!(
                    "the header lacks {column}; a CSV file begins with: subject, feature, amount"
                );
            }
        }
        Ok(Self {
            reader,
            columns,
            record: ByteRecord::new(),
        })
    }

    fn read(&mut self) -> anyhow::Result<Option<Line>> {
        self.reader.get_mut().left = Portion::WHOLE;
        let begun = self.reader.position().line();
        let read = self.reader.read_byte_record(&mut self.record);
        if !read.with_context(|| format!("the file cannot be read on from line {begun}"))? {
            return Ok(None);
        }
        let number = self.record.position().map_or(0, csv::Position::line);
        Ok(Some(Line {
            number,
            members: self.members(),
        }))
    }

    fn members(&self) -> Result<Map<String, Value>, (Option<String>, String)> {
        if self.record.len() > self.columns.len() {
            let message = format!(
                "this line has {} fields, the header {}",
                self.record.len(),
                self.columns.len()
            );
            return Err((None, message));
        }
        let mut members = Map::new();
        for (column, field) in self.columns.iter().zip(&self.record) {
            let text = std::str::from_utf8(field)
                .map_err(|_| (Some(column.clone()), format!("{column} is not UTF-8")))?;
            if !text.is_empty() {
                members.insert(column.clone(), value(column, text));
            }
        }
        Ok(members)
    }
}

/// A field as JSON would have it; what does not fit stays text, and is refused by name.
fn value(column: &str, text: &str) -> Value {
    match column {
        "amount" => text
            .parse::<i64>()
            .map_or_else(|_| text.into(), Value::from),
        "superadmin" => match text.to_ascii_lowercase().as_str() {
            "true" => true.into(),
            "false" => false.into(),
            _ => text.into(),
        },
        _ => text.into(),
    }
}

impl Json {
    fn read(&mut self) -> anyhow::Result<Option<Line>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader)
                .take(LINE_MAX)
                .read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if read as u64 == LINE_MAX && !line.ends_with(b"\n") {
                self.reader.skip_until(b'\n')?;
                let members = Err((None, format!("a line has at most {LINE_MAX} bytes")));
                return Ok(Some(Line { number, members }));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let members = match parse_json(&line) {
                Ok(Value::Object(members)) => Ok(members),
                Ok(_) => Err((None, "a line is a JSON object".to_owned())),
                Err(rejection) => Err((None, rejection.message)),
            };
            return Ok(Some(Line { number, members }));
        }
    }
}
