//! Round-trip times between regions, read from a table.
//!
//! Such a matrix feeds the emulator, the judge of a demonstration and tests. It is no source
//! for a running node, which measures its peers: see [`distance`](crate::distance).

use std::collections::BTreeMap;

use nigh_model::Region;

use crate::error::Error;

/// Most regions of one matrix: a million cells, far above any cloud's number of regions.
pub const REGIONS_MAX: usize = 1_000;

/// Longest round trip of a cell, in ms: above every path on earth, satellites included.
pub const RTT_MS_MAX: f64 = 10_000.0;

/// How much of a bad cell an error repeats, in characters.
const GIVEN_CHARS_MAX: usize = 40;

const AWS_RTT_CSV: &str = include_str!("../data/aws_rtt_ms.csv");

/// Round-trip times between regions, in ms. Cells may be missing and directions may differ.
#[derive(Clone, Debug, PartialEq)]
pub struct RttMatrix {
    index: BTreeMap<Region, usize>,
    /// Row by row, from × to.
    cells: Vec<Option<f64>>,
}

impl RttMatrix {
    /// The matrix of 19 AWS regions in `data/`.
    pub fn aws() -> Self {
        Self::parse(AWS_RTT_CSV).expect("the embedded matrix is read by a test")
    }

    /// Reads a table: the first line names the columns (to), the first cell of each line its
    /// row (from), each other cell is a time in ms or empty. The corner cell is free, empty
    /// lines and lines that begin with `#` are skipped, blanks around a cell are dropped.
    ///
    /// # Errors
    /// The first row and column that break a rule.
    pub fn parse(csv: &str) -> Result<Self, Error> {
        let csv = csv.trim_start_matches('\u{feff}');
        let mut lines = csv
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));

        let (header_row, header) = lines.next().ok_or(Error::EmptyMatrix)?;
        let mut columns = Vec::new();
        for (at, name) in header.split(',').enumerate().skip(1) {
            let region = region(name, header_row, at + 1)?;
            if columns.contains(&region) {
                return Err(Error::RegionTwice { row: header_row, column: at + 1, region });
            }
            columns.push(region);
            limit(columns.len())?;
        }
        if columns.is_empty() {
            return Err(Error::EmptyMatrix);
        }

        let mut rows: BTreeMap<Region, Vec<Option<f64>>> = BTreeMap::new();
        for (row, line) in lines {
            let (from, values) = read_row(row, line, &columns)?;
            if rows.contains_key(&from) {
                return Err(Error::RegionTwice { row, column: 1, region: from });
            }
            rows.insert(from, values);
            limit(rows.len())?;
        }
        Self::assemble(&columns, &rows)
    }

    /// The round trip between two regions, in ms; none if neither direction is in the table.
    /// Where one direction is missing the other one stands in: a round trip takes both ways.
    pub fn get(&self, from: &Region, to: &Region) -> Option<f64> {
        let (from, to) = (*self.index.get(from)?, *self.index.get(to)?);
        let side = self.index.len();
        self.cells[from * side + to].or(self.cells[to * side + from])
    }

    /// The regions of the table, in order of their names.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = &Region> {
        self.index.keys()
    }

    fn assemble(
        columns: &[Region],
        rows: &BTreeMap<Region, Vec<Option<f64>>>,
    ) -> Result<Self, Error> {
        let mut index: BTreeMap<Region, usize> =
            columns.iter().chain(rows.keys()).map(|region| (region.clone(), 0)).collect();
        for (at, slot) in index.values_mut().enumerate() {
            *slot = at;
        }
        limit(index.len())?;
        let side = index.len();
        let mut cells = vec![None; side * side];
        for (from, values) in rows {
            for (to, value) in columns.iter().zip(values) {
                cells[index[from] * side + index[to]] = *value;
            }
        }
        Ok(Self { index, cells })
    }
}

fn read_row(
    row: usize,
    line: &str,
    columns: &[Region],
) -> Result<(Region, Vec<Option<f64>>), Error> {
    let mut cells = line.split(',');
    let from = region(cells.next().unwrap_or_default(), row, 1)?;
    let (found, expected) = (cells.clone().count() + 1, columns.len() + 1);
    if found != expected {
        return Err(Error::RowLength { row, found, expected });
    }
    let mut values = Vec::with_capacity(columns.len());
    for (at, (cell, to)) in cells.zip(columns).enumerate() {
        let cell = cell.trim();
        let value = match cell.parse::<f64>() {
            _ if cell.is_empty() => None,
            Ok(ms) if (0.0..=RTT_MS_MAX).contains(&ms) => Some(ms),
            _ => {
                let given = cell.chars().take(GIVEN_CHARS_MAX).collect();
                return Err(Error::BadRtt { row, column: at + 2, from, to: to.clone(), given });
            }
        };
        values.push(value);
    }
    Ok((from, values))
}

fn region(name: &str, row: usize, column: usize) -> Result<Region, Error> {
    Region::new(name.trim()).map_err(|why| Error::BadRegion { row, column, why })
}

fn limit(found: usize) -> Result<(), Error> {
    if found > REGIONS_MAX { Err(Error::TooManyRegions { found }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(matrix: &RttMatrix, from: &str, to: &str) -> Option<f64> {
        matrix.get(&Region::new(from).unwrap(), &Region::new(to).unwrap())
    }

    #[test]
    fn the_embedded_matrix_is_whole() {
        let aws = RttMatrix::aws();
        assert_eq!(aws.regions().len(), 19);
        for from in aws.regions() {
            for to in aws.regions() {
                assert!(aws.get(from, to).is_some(), "{from} to {to}");
            }
        }
        assert_eq!(get(&aws, "af-south-1", "ap-east-1"), Some(382.868));
        assert_eq!(get(&aws, "af-south-1", "mars-1"), None);
    }

    #[test]
    fn cells_may_be_missing_and_directions_may_differ() {
        let text = "\u{feff}# made up\r\n from\\to , a, b ,c\r\n\r\na,0.1,10, \r\nb,12,,30\r\n";
        let matrix = RttMatrix::parse(text).unwrap();
        assert_eq!(get(&matrix, "a", "b"), Some(10.0));
        assert_eq!(get(&matrix, "b", "a"), Some(12.0));
        assert_eq!(get(&matrix, "c", "b"), Some(30.0), "the other direction stands in");
        assert_eq!(get(&matrix, "a", "c"), None);
        assert_eq!(get(&matrix, "b", "b"), None);
        assert_eq!(matrix.regions().map(Region::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn a_bad_table_is_refused_with_row_and_column() {
        let cases = [
            ("", "the matrix is empty"),
            ("corner\n", "the matrix is empty"),
            (",a,B b\n", "row 1, column 3: region `B b` is not valid"),
            (",a,b,a\n", "row 1, column 4: region `a` stands here a second time"),
            (",a,b\na,1,2\n\na,1,2\n", "row 4, column 1: region `a` stands here a second time"),
            (",a,b\na,1\n", "row 2 has 2 cells, the header has 3"),
            (",a,b\na,1,2,3\n", "row 2 has 4 cells, the header has 3"),
            (",a,b\na,1,2\nb,x,2\n", "row 3, column 2 (b to a): `x` is no round trip"),
            (",a\na,-1\n", "`-1` is no round trip in ms between 0 and 10000"),
            (",a\na,NaN\n", "`NaN` is no round trip"),
            (",a\na,1e9\n", "`1e9` is no round trip"),
        ];
        for (text, expected) in cases {
            let error = RttMatrix::parse(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{text:?}: {error}");
        }
        let wide = (0..=REGIONS_MAX).map(|at| format!(",r{at}")).collect::<String>();
        assert_eq!(RttMatrix::parse(&wide), Err(Error::TooManyRegions { found: REGIONS_MAX + 1 }));
    }
}
