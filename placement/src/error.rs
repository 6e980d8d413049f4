//! What can be wrong with the data given to this crate.

use nigh_model::{Kind, Region, ids::BadName};

use crate::rtt::{REGIONS_MAX, RTT_MS_MAX};

/// A round-trip matrix that cannot be read. Rows and columns count from 1, headers included.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// There is no header line.
    #[error("the matrix is empty: its first line names the regions of the columns")]
    EmptyMatrix,
    /// More regions than a matrix may have.
    #[error("the matrix names {found} regions, at most {REGIONS_MAX} are allowed")]
    TooManyRegions {
        /// How many it names.
        found: usize,
    },
    /// A header is no region name.
    #[error("row {row}, column {column}: {why}")]
    BadRegion {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The rule it breaks.
        why: BadName,
    },
    /// A region has two rows or two columns.
    #[error("row {row}, column {column}: region `{region}` stands here a second time")]
    RegionTwice {
        /// The row of the second one.
        row: usize,
        /// The column of the second one.
        column: usize,
        /// The region.
        region: Region,
    },
    /// A row is longer or shorter than the header.
    #[error(
        "row {row} has {found} cells, the header has {expected}; leave an unknown cell empty, \
         but keep its comma"
    )]
    RowLength {
        /// Its row.
        row: usize,
        /// How many cells it has.
        found: usize,
        /// How many the header has.
        expected: usize,
    },
    /// A cell is no round-trip time.
    #[error(
        "row {row}, column {column} ({from} to {to}): `{given}` is no round trip in ms \
         between 0 and {RTT_MS_MAX}"
    )]
    BadRtt {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The region of the row.
        from: Region,
        /// The region of the column.
        to: Region,
        /// What stands there, shortened.
        given: String,
    },
}

impl Error {
    /// What the caller should do: correct the file.
    pub const fn kind(&self) -> Kind {
        Kind::Invalid
    }
}
