//! Rows to standard output, in the format that was asked for.
//!
//! **Owns**: the formats, headers, separators, and that data is written as it comes.
//! **Does not own**: the values (`cell`), talk (`say`, standard error).

use std::io::{self, BufWriter, Write};

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde_json::{Map, Value};

use super::cell::Cell;

/// How data looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// With a header.
    Csv,
    /// The bytes alone, a line each.
    Raw,
}

/// The flag of every reading verb.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputFlags {
    /// How data looks.
    #[arg(short, long, value_enum, default_value_t, env = "DOMICILE_OUTPUT")]
    pub(crate) output: Format,
}

/// Whether rows for people wait for all of them, to line up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Few rows: a table.
    Table,
    /// Any number of rows: a line each, tabs between.
    Lines,
    /// One row: a line a column.
    Record,
}

/// Writes rows with the same columns.
pub(crate) struct Output<W: Write = Box<dyn Write + Send>> {
    format: Format,
    layout: Layout,
    columns: Vec<&'static str>,
    /// Of the columns, the one that `raw` shows.
    raw_column: usize,
    table: Table,
    rows: usize,
    to: BufWriter<W>,
}

impl Output {
    /// Rows to standard output.
    pub(crate) fn stdout(format: Format, layout: Layout, columns: &[&'static str]) -> Self {
        Self::to(Box::new(io::stdout()), format, layout, columns)
    }
}

impl<W: Write> Output<W> {
    pub(crate) fn to(to: W, format: Format, layout: Layout, columns: &[&'static str]) -> Self {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(columns.to_vec());
        Self {
            format,
            layout,
            columns: columns.to_vec(),
            raw_column: 0,
            table,
            rows: 0,
            to: BufWriter::new(to),
        }
    }

    /// The column that `raw` shows; the first unless said otherwise.
    pub(crate) fn raw_column(mut self, name: &str) -> Self {
        let place = self.columns.iter().position(|column| *column == name);
        self.raw_column = place.expect("a column of this output");
        self
    }

    /// Writes one row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        assert!(
            cells.len() == self.columns.len(),
            "{} cells for {} columns",
            cells.len(),
            self.columns.len()
        );
        self.rows += 1;
        match self.format {
            Format::Human => self.human(&cells),
            Format::Json => {
                let before = if self.rows == 1 { "[\n" } else { ",\n" };
                self.to.write_all(before.as_bytes())?;
                self.object(&cells)
            }
            Format::Jsonl => {
                self.object(&cells)?;
                self.to.write_all(b"\n")
            }
            Format::Csv => {
                if self.rows == 1 {
                    let header = self.columns.iter().map(|column| column.as_bytes().to_vec());
                    let header = header.collect();
                    self.csv(header)?;
                }
                self.csv(cells.iter().map(Cell::raw).collect())
            }
            Format::Raw => {
                self.to.write_all(&cells[self.raw_column].raw())?;
                match self.layout {
                    Layout::Record => Ok(()),
                    _ => self.to.write_all(b"\n"),
                }
            }
        }
    }

    /// Passes on what was written so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// Ends the data; without rows it is still a document.
    pub(crate) fn end(mut self) -> io::Result<()> {
        match (self.format, self.layout) {
            (Format::Human, Layout::Table) if self.rows > 0 => {
                writeln!(self.to, "{}", self.table.trim_fmt())?;
            }
            (Format::Json, _) => {
                let end: &[u8] = if self.rows == 0 { b"[]\n" } else { b"\n]\n" };
                self.to.write_all(end)?;
            }
            _ => {}
        }
        self.to.flush()
    }

    fn human(&mut self, cells: &[Cell]) -> io::Result<()> {
        let shown = cells.iter().map(Cell::human);
        match self.layout {
            Layout::Table => {
                self.table.add_row(shown.collect::<Vec<_>>());
                Ok(())
            }
            Layout::Lines => {
                writeln!(self.to, "{}", shown.collect::<Vec<_>>().join("\t"))
            }
            Layout::Record => {
                let width = self
                    .columns
                    .iter()
                    .map(|column| column.len())
                    .max()
                    .unwrap_or(0);
                for (column, cell) in self.columns.iter().zip(shown) {
                    writeln!(self.to, "{column:width$}  {cell}")?;
                }
                Ok(())
            }
        }
    }

    fn object(&mut self, cells: &[Cell]) -> io::Result<()> {
        let mut object = Map::new();
        for (column, cell) in self.columns.iter().zip(cells) {
            cell.put_into(&mut object, column);
        }
        serde_json::to_writer(&mut self.to, &Value::Object(object)).map_err(io::Error::from)
    }

    fn csv(&mut self, fields: Vec<Vec<u8>>) -> io::Result<()> {
        let mut line = csv::Writer::from_writer(Vec::new());
        line.write_record(&fields).map_err(io::Error::other)?;
        let line = line
            .into_inner()
            .map_err(|error| io::Error::other(error.to_string()))?;
        self.to.write_all(&line)
    }
}

/// Says something to a person who watches: standard error.
pub(crate) fn say(words: impl std::fmt::Display) {
    // A closed standard error cannot be told so.
    let _ = writeln!(io::stderr().lock(), "{words}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, layout: Layout, rows: &[Vec<Cell>]) -> String {
        let mut bytes = Vec::new();
        let mut output = Output::to(&mut bytes, format, layout, &["key", "value", "size"]);
        output = output.raw_column("value");
        for row in rows {
            output.row(row.clone()).unwrap();
        }
        output.end().unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn rows() -> Vec<Vec<Cell>> {
        let bytes = |bytes: &'static [u8]| Cell::Bytes(bytes.into());
        vec![
            vec![bytes(b"a"), bytes(b"x, \"y\""), Cell::Number(6)],
            vec![bytes(b"b"), bytes(b"\xff\x00"), Cell::Nothing],
        ]
    }

    #[test]
    fn each_format_shows_the_same_rows() {
        let shown = |format| written(format, Layout::Lines, &rows());
        assert_eq!(shown(Format::Human), "a\tx, \"y\"\t6\nb\t\\xff\\x00\t-\n");
        assert_eq!(
            shown(Format::Jsonl),
            "{\"key\":\"a\",\"value\":\"x, \\\"y\\\"\",\"size\":6}\n\
             {\"key\":\"b\",\"value_base64\":\"/wA=\",\"size\":null}\n"
        );
        assert_eq!(
            shown(Format::Csv),
            "key,value,size\na,\"x, \"\"y\"\"\",6\nb,\u{fffd}\0,\n"
        );
        assert_eq!(shown(Format::Raw), "x, \"y\"\n\u{fffd}\0\n");
        let document: Value = serde_json::from_str(&shown(Format::Json)).unwrap();
        assert_eq!(document.as_array().unwrap().len(), 2);
    }

    #[test]
    fn no_rows_are_still_a_document() {
        assert_eq!(written(Format::Json, Layout::Table, &[]), "[]\n");
        for format in [Format::Human, Format::Jsonl, Format::Csv, Format::Raw] {
            assert_eq!(written(format, Layout::Table, &[]), "");
        }
    }

    #[test]
    fn a_single_raw_value_has_no_line_end_of_ours() {
        assert_eq!(
            written(Format::Raw, Layout::Record, &rows()[..1]),
            "x, \"y\""
        );
    }

    #[test]
    fn tables_line_up() {
        let shown = written(Format::Human, Layout::Table, &rows());
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert!(
            lines[0].contains("key") && lines[1].contains("x, \"y\""),
            "{shown}"
        );
    }
}
