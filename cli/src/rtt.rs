//! Reading a matrix of round trips and checking that it knows the regions in use.

use std::path::Path;

use nigh_model::{Kind, Region};
use nigh_placement::RttMatrix;

use crate::failure::{Failure, Result};

/// The name of the matrix that is part of this program. A file of that name is `./aws`.
pub(crate) const EMBEDDED: &str = "aws";

/// The embedded matrix, or one from a file; `flag` names what it was given by.
pub(crate) fn read(path: &Path, flag: &str) -> Result<RttMatrix> {
    if path.as_os_str() == EMBEDDED {
        return Ok(RttMatrix::aws());
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Invalid,
        };
        Failure::new(kind, format!("{flag}: cannot read {}", path.display())).why(error.to_string())
    })?;
    RttMatrix::parse(&text).map_err(|error| {
        Failure::invalid(format!("{flag}: {} is no matrix of round trips", path.display()))
            .why(error.to_string())
            .hint(
                "the first line names the regions, each further line a region and its times in ms",
            )
    })
}

/// Refuses regions that the matrix does not have.
pub(crate) fn check<'a>(
    matrix: &RttMatrix,
    regions: impl IntoIterator<Item = &'a Region>,
) -> Result {
    for region in regions {
        if !matrix.regions().any(|known| known == region) {
            let known: Vec<&str> = matrix.regions().map(Region::as_str).collect();
            let failure =
                Failure::invalid(format!("region `{region}` is not in the matrix of round trips"));
            let nearest = nigh_model::suggest::nearest(region.as_str(), known);
            let or = "or give your own matrix with --rtt-matrix FILE, or none at all";
            return Err(match nearest {
                Some(nearest) => failure.hint(format!("did you mean `{nearest}`? {or}")),
                None => failure.hint(format!("use a region that it has, {or}")),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_region_is_answered_with_the_nearest() {
        let region = |name: &str| Region::new(name).unwrap();
        assert!(check(&RttMatrix::aws(), &[region("eu-west-1")]).is_ok());
        let failure = check(&RttMatrix::aws(), &[region("eu-wset-1")]).unwrap_err();
        assert_eq!(failure.exit(), 4);
        assert!(failure.to_string().contains("did you mean `eu-west-"), "{failure}");
    }

    #[test]
    fn the_embedded_matrix_has_a_name() {
        let regions = |matrix: RttMatrix| matrix.regions().cloned().collect::<Vec<_>>();
        let named = read(Path::new(EMBEDDED), "--rtt-matrix").unwrap();
        assert_eq!(regions(named), regions(RttMatrix::aws()));
        assert_eq!(read(Path::new("./aws"), "--rtt-matrix").unwrap_err().exit(), 3);
    }

    #[test]
    fn a_file_that_is_no_matrix_is_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.csv");
        assert_eq!(read(&path, "--rtt-matrix").unwrap_err().exit(), 3);
        std::fs::write(&path, ",a\na,x\n").unwrap();
        let said = read(&path, "--rtt-matrix").unwrap_err().to_string();
        assert!(said.contains("m.csv") && said.contains("`x` is no round trip"), "{said}");
    }
}
