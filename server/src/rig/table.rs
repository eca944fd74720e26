//! Rows under headings, in columns.
//!
//! **Owns**: widths and alignment.
//! **Does not own**: the figures and their units.

use std::fmt;

/// A table of text: the first column to the left, the others to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let headings = headings.iter().map(|text| (*text).to_owned()).collect();
        Self {
            headings,
            rows: Vec::new(),
            left: 1,
        }
    }

    /// Aligns the first `columns` to the left.
    #[must_use]
    pub fn left(mut self, columns: usize) -> Self {
        self.left = columns;
        self
    }

    /// Adds a row; missing cells stay empty.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let lengths = cells.chain(self.headings.get(column));
        lengths.map(|text| text.chars().count()).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).chain([self.headings.len()]);
        let widths: Vec<_> = (0..columns.max().unwrap_or(0))
            .map(|column| self.width(column))
            .collect();
        let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let lines = [&self.headings, &rule].into_iter().chain(&self.rows);
        for (number, cells) in lines.enumerate() {
            let mut line = String::new();
            for (column, width) in widths.iter().enumerate() {
                let text = cells.get(column).map_or("", String::as_str);
                line += if column == 0 { "" } else { "  " };
                line += &if column < self.left {
                    format!("{text:<width$}")
                } else {
                    format!("{text:>width$}")
                };
            }
            let end = if number == 0 { "" } else { "\n" };
            write!(formatter, "{end}{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A whole number with commas between thousands.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["level", "p50"]);
        table.row(["async", "0.3"]);
        table.row(["s", "160.25"]);
        let text = "level     p50\n-----  ------\nasync     0.3\ns      160.25";
        assert_eq!(table.to_string(), text);
    }

    #[test]
    fn thousands_are_grouped() {
        let texts = [0, 999, 1000, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
