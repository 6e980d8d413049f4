//! Tables for people: aligned columns, no borders.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table under construction.
pub(crate) struct Rows {
    table: Table,
}

impl Rows {
    /// A table with these headings. A heading that begins with `>` is of a column of numbers
    /// and stands to the right.
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.map(|heading| heading.trim_start_matches('>')));
        for (column, heading) in table.column_iter_mut().zip(headings) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table }
    }

    /// Adds a row.
    pub(crate) fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.table.add_row(cells);
    }

    /// The table as text, without blanks at the ends of lines.
    pub(crate) fn text(&self) -> String {
        let text = self.table.to_string();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

/// A time for a cell: three significant digits are enough.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// A size for a cell.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count with its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Names for a cell.
pub(crate) fn names(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_noise() {
        let mut rows = Rows::new(["NAME", ">COUNT"]);
        rows.push(["a".into(), "1".into()]);
        rows.push(["longer".into(), "12345".into()]);
        assert_eq!(rows.text(), "NAME    COUNT\na           1\nlonger  12345");
    }

    #[test]
    fn cells_are_short() {
        assert_eq!(
            [millis(0.1234), millis(12.34), millis(123.4)],
            ["0.12 ms", "12.3 ms", "123 ms"]
        );
        assert_eq!([bytes(10), bytes(2048), bytes(128 << 20)], ["10 B", "2.0 KiB", "128.0 MiB"]);
        assert_eq!([count(1, "node"), count(2, "node")], ["1 node", "2 nodes"]);
    }
}
