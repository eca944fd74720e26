//! The rows of a JSONL or CSV file, one at a time, in bounded memory.
//!
//! **Owns**: the two formats, and telling what is wrong with a row and in which line it stands.
//! **Does not own**: what happens to rows (`import`).
//!
//! JSONL: `{"key": "..", "value": ".."}`, or `key_base64` and `value_base64` for bytes that are no
//! text; `expires_at_ms` is kept; `version` and `written_at_ms` of an export are ignored.
//! CSV: the first two fields are key and value; a first line `key,value...` is a header, and the
//! field that it calls `expires_at_ms` is kept as well.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use domicile_proto::limits::{check_key, check_value};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::base64;

/// Longest row read: a value of 1 MiB with every byte escaped takes 6 MiB. Doubled, a file that is
/// no JSONL takes twice the memory before it is refused.
pub(crate) const ROW_BYTES_MAX: usize = 8 << 20;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) expires_at_ms: Option<u64>,
}

/// A row as it stands in the file: what it says, or what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Its number among the rows, from 0; bad rows count.
    pub(crate) number: u64,
    /// The line it begins in, from 1.
    pub(crate) line: u64,
    pub(crate) row: Result<Row, String>,
}

/// The rows of a file.
pub(crate) struct Rows {
    source: Source,
    number: u64,
}

enum Source {
    Jsonl {
        lines: BufReader<Box<dyn Read + Send>>,
        line: u64,
        read: u64,
    },
    Csv {
        records: Box<csv::Reader<Limited>>,
        record: csv::ByteRecord,
        expiry_field: Option<usize>,
    },
}

impl Rows {
    pub(crate) fn jsonl(file: Box<dyn Read + Send>) -> Self {
        let lines = BufReader::with_capacity(1 << 20, file);
        Self {
            source: Source::Jsonl {
                lines,
                line: 0,
                read: 0,
            },
            number: 0,
        }
    }

    pub(crate) fn csv(file: Box<dyn Read + Send>) -> Self {
        let limited = Limited {
            file,
            left: ROW_BYTES_MAX,
        };
        let mut builder = csv::ReaderBuilder::new();
        builder
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(1 << 16);
        let records = Box::new(builder.from_reader(limited));
        Self {
            source: Source::Csv {
                records,
                record: csv::ByteRecord::new(),
                expiry_field: None,
            },
            number: 0,
        }
    }

    /// The next row; `None` at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read, or its rows cannot be told apart any more.
    pub(crate) fn next(&mut self) -> io::Result<Option<Placed>> {
        let read = match &mut self.source {
            Source::Jsonl { lines, line, read } => next_jsonl(lines, line, read)?,
            Source::Csv {
                records,
                record,
                expiry_field,
            } => next_csv(records, record, expiry_field)?,
        };
        let Some((line, row)) = read else {
            return Ok(None);
        };
        let row = row.and_then(|row| {
            check_key(&row.key).map_err(|error| error.to_string())?;
            check_value(&row.value).map_err(|error| error.to_string())?;
            Ok(row)
        });
        self.number += 1;
        Ok(Some(Placed {
            number: self.number - 1,
            line,
            row,
        }))
    }

    /// Bytes of the file that have been read.
    pub(crate) fn bytes_read(&self) -> u64 {
        match &self.source {
            Source::Jsonl { read, .. } => *read,
            Source::Csv { records, .. } => records.position().byte(),
        }
    }
}

type Read1 = Option<(u64, Result<Row, String>)>;

/// Empty lines are no rows.
fn next_jsonl(
    lines: &mut BufReader<Box<dyn Read + Send>>,
    line: &mut u64,
    read: &mut u64,
) -> io::Result<Read1> {
    loop {
        let mut text = Vec::new();
        let taken = lines
            .by_ref()
            .take(ROW_BYTES_MAX as u64)
            .read_until(b'\n', &mut text)?;
        if taken == 0 {
            return Ok(None);
        }
        *line += 1;
        *read += taken as u64;
        if taken == ROW_BYTES_MAX && text.last() != Some(&b'\n') {
            *read += lines.skip_until(b'\n')? as u64;
            return Ok(Some((
                *line,
                Err(format!("row too large: limit {ROW_BYTES_MAX} bytes")),
            )));
        }
        let trimmed = text.trim_ascii();
        if !trimmed.is_empty() {
            return Ok(Some((*line, json_row(trimmed))));
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRow {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    expires_at_ms: Option<u64>,
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
    #[serde(rename = "written_at_ms")]
    _written_at_ms: Option<IgnoredAny>,
}

fn json_row(text: &[u8]) -> Result<Row, String> {
    let row: JsonRow = serde_json::from_slice(text).map_err(|error| {
        // The line within a line says nothing.
        error
            .to_string()
            .replace(" at line 1 column ", " at column ")
    })?;
    Ok(Row {
        key: json_field("key", row.key, row.key_base64)?,
        value: json_field("value", row.value, row.value_base64)?,
        expires_at_ms: row.expires_at_ms,
    })
}

fn json_field(name: &str, text: Option<String>, coded: Option<String>) -> Result<Bytes, String> {
    match (text, coded) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(coded)) => {
            let decoded = base64::decode(&coded);
            decoded
                .map(Bytes::from)
                .map_err(|what| format!("{name}_base64: {what}"))
        }
        (None, None) => Err(format!("neither {name} nor {name}_base64")),
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64")),
    }
}

fn next_csv(
    records: &mut csv::Reader<Limited>,
    record: &mut csv::ByteRecord,
    expiry_field: &mut Option<usize>,
) -> io::Result<Read1> {
    loop {
        records.get_mut().left = ROW_BYTES_MAX;
        let first = records.position().record() == 0;
        if !records.read_byte_record(record).map_err(io_error)? {
            return Ok(None);
        }
        if first && record.len() >= 2 && &record[0] == b"key" && &record[1] == b"value" {
            *expiry_field = record.iter().position(|name| name == b"expires_at_ms");
            continue;
        }
        let line = record.position().map_or(0, csv::Position::line);
        let row = match record.len() {
            0 | 1 => Err(format!("{} field(s), key and value expected", record.len())),
            _ => {
                let expiry = expiry_field.and_then(|index| record.get(index));
                csv_expiry(expiry.unwrap_or_default()).map(|expires_at_ms| Row {
                    key: Bytes::copy_from_slice(&record[0]),
                    value: Bytes::copy_from_slice(&record[1]),
                    expires_at_ms,
                })
            }
        };
        return Ok(Some((line, row)));
    }
}

/// An empty field: never.
fn csv_expiry(field: &[u8]) -> Result<Option<u64>, String> {
    if field.is_empty() {
        return Ok(None);
    }
    let number = std::str::from_utf8(field)
        .ok()
        .and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        format!(
            "expires_at_ms {:?}: no number",
            field.escape_ascii().to_string()
        )
    })
}

fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
    }
}

/// Refuses to go on reading within one record: a quote that is never closed is not the whole file.
struct Limited {
    file: Box<dyn Read + Send>,
    left: usize,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let message =
                format!("row too large: limit {ROW_BYTES_MAX} bytes; is a quote left open?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let read = self.file.read(buffer)?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = Result<(String, String), String>;

    fn all(mut rows: Rows) -> Vec<(u64, Told)> {
        let mut read = Vec::new();
        while let Some(placed) = rows.next().unwrap() {
            assert_eq!(placed.number, read.len() as u64);
            let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
            let row = placed.row.map(|row| (text(row.key), text(row.value)));
            read.push((placed.line, row));
        }
        read
    }

    fn jsonl(text: &str) -> Rows {
        Rows::jsonl(Box::new(io::Cursor::new(text.as_bytes().to_vec())))
    }

    fn csv(text: &str) -> Rows {
        Rows::csv(Box::new(io::Cursor::new(text.as_bytes().to_vec())))
    }

    fn good(key: &str, value: &str) -> Told {
        Ok((key.to_owned(), value.to_owned()))
    }

    #[test]
    fn jsonl_rows_have_their_lines_and_their_faults() {
        let text = "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"b\"}\n\
                    {\"key_base64\":\"Yw==\",\"value\":\"\",\"version\":\"x\",\
                    \"written_at_ms\":7}\r\n\
                    {\"key\":\"d\",\"value\":5}\n{\"key\":\"\",\"value\":\"\"}\n\
                    {\"key\":\"e\",\"valu\":\"\"}\n{\"key\":\"f\",\"value_base64\":\"?\"}\n\
                    {\"key\":\"g\",\"value\":\"last\"}";
        let rows = all(jsonl(text));
        let lines: Vec<u64> = rows.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(rows[0].1, good("a", "1"));
        assert_eq!(rows[1].1, Err("neither value nor value_base64".to_owned()));
        assert_eq!(rows[2].1, good("c", ""));
        assert_eq!(rows[7].1, good("g", "last"));
        for (place, words) in [
            (3, "invalid type: integer `5`, expected a string at column "),
            (4, "invalid key length: 0"),
            (5, "unknown field `valu`"),
            (6, "value_base64: base64 of 1 characters"),
        ] {
            let fault = rows[place].1.clone().unwrap_err();
            assert!(fault.starts_with(words), "{fault}");
        }
    }

    #[test]
    fn a_line_without_end_is_one_bad_row() {
        let long = "x".repeat(ROW_BYTES_MAX + 100);
        let mut rows = jsonl(&format!("{long}\n{{\"key\":\"a\",\"value\":\"1\"}}\n"));
        let bad = rows.next().unwrap().unwrap();
        assert!(bad.row.unwrap_err().contains("row too large"));
        let after = rows.next().unwrap().unwrap();
        assert_eq!((after.line, after.row.is_ok()), (2, true));
        assert_eq!(rows.bytes_read(), (ROW_BYTES_MAX + 100 + 1 + 24) as u64);
    }

    #[test]
    fn csv_rows_have_their_lines_and_their_faults() {
        let text = "key,value,version\na,1,x\n\"b\nb\",\"2,\"\"2\"\"\"\nalone\n,empty\nc,\n";
        let rows = all(csv(text));
        let lines: Vec<u64> = rows.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 5, 6, 7]);
        assert_eq!(rows[0].1, good("a", "1"));
        assert_eq!(rows[1].1, good("b\nb", "2,\"2\""));
        assert_eq!(
            rows[2].1,
            Err("1 field(s), key and value expected".to_owned())
        );
        assert!(rows[3].1.is_err());
        assert_eq!(rows[4].1, good("c", ""));
        assert_eq!(all(csv("a,1\n"))[0], (1, good("a", "1")));
    }

    #[test]
    fn rows_keep_their_expiry() {
        let expiries = |mut rows: Rows| {
            let mut read = Vec::new();
            while let Some(placed) = rows.next().unwrap() {
                read.push(placed.row.map(|row| row.expires_at_ms));
            }
            read
        };
        let text = "key,value,version,written_at_ms,expires_at_ms\na,1,x,7,9\nb,2,x,7,\n\
                    c,3\nd,4,x,7,soon\n";
        let soon = Err("expires_at_ms \"soon\": no number".to_owned());
        assert_eq!(expiries(csv(text)), [Ok(Some(9)), Ok(None), Ok(None), soon]);
        let text = "{\"key\":\"a\",\"value\":\"1\",\"expires_at_ms\":9}\n\
                    {\"key\":\"b\",\"value\":\"1\",\"expires_at_ms\":null}\n\
                    {\"key\":\"c\",\"value\":\"1\",\"expires_at_ms\":-1}\n";
        let read = expiries(jsonl(text));
        assert_eq!(read[..2], [Ok(Some(9)), Ok(None)]);
        assert!(read[2].is_err());
    }

    #[test]
    fn a_quote_left_open_is_an_error_not_the_memory() {
        let text = format!("a,\"{}", "x".repeat(2 * ROW_BYTES_MAX));
        let fault = csv(&text).next().unwrap_err();
        assert!(fault.to_string().contains("quote"), "{fault}");
    }

    #[test]
    fn fuzz_files() {
        let rows = b"{\"key\":\"a\",\"value\":\"1\"}\n{\"key_base64\":\"YQ==\",\"value\":\"\"}\n";
        let table = b"key,value,expires_at_ms\r\na,1,5\r\n\"b\"\"c\",\"2\n3\",\r\n";
        crate::fuzz_tests::attack(&[rows.to_vec(), table.to_vec()], &|bytes| {
            let file = || Box::new(io::Cursor::new(bytes.to_vec()));
            for mut rows in [Rows::jsonl(file()), Rows::csv(file())] {
                let mut count = 0;
                while let Ok(Some(_)) = rows.next() {
                    count += 1;
                    assert!(count <= bytes.len(), "more rows than bytes");
                }
            }
        });
    }
}
