//! Distance on the map, and the round trip to expect from it.
//!
//! A guess for the time before the first measurement: on the AWS matrix it is off by 14 % in
//! the median and by a third for one pair in ten, enough to pick a wrong neighbour.

use nigh_model::Location;

/// Mean radius of the earth, in km.
const EARTH_RADIUS_KM: f64 = 6_371.0;

/// Light in glass fibre (refractive index 1.47), in km per ms.
const FIBRE_KM_PER_MS: f64 = 204.0;

/// How much longer than the great circle the way through cables and routers takes.
/// 1.6 fits the AWS matrix best; single pairs lie between 1.1 and 2.5.
const DETOUR: f64 = 1.6;

/// What a round trip costs besides distance (last mile, switches, kernel), in ms.
/// Fitted together with `DETOUR`.
const ENDS_MS: f64 = 2.0;

const AWS_REGIONS_CSV: &str = include_str!("../data/aws_regions.csv");

/// A region of which the place is publicly known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownRegion {
    /// The metropolitan area it lies in.
    pub metro: &'static str,
    /// Its country, as two letters (ISO 3166-1).
    pub country: &'static str,
    /// Where it stands.
    pub location: Location,
}

/// Looks a region up by its name in the table in `data/`.
pub fn known_region(name: &str) -> Option<KnownRegion> {
    AWS_REGIONS_CSV.lines().skip(1).find_map(|line| {
        let mut cells = line.split(',');
        if cells.next()? != name {
            return None;
        }
        let (metro, country) = (cells.next()?, cells.next()?);
        let latitude = cells.next()?.parse().ok()?;
        let longitude = cells.next()?.parse().ok()?;
        Some(KnownRegion { metro, country, location: Location { latitude, longitude } })
    })
}

/// The great-circle distance between two points, in km (haversine formula).
pub fn distance_km(a: Location, b: Location) -> f64 {
    let (a_lat, b_lat) = (a.latitude.to_radians(), b.latitude.to_radians());
    let half_lat = (b_lat - a_lat) / 2.0;
    let half_lon = (b.longitude - a.longitude).to_radians() / 2.0;
    let h = half_lat.sin().powi(2) + a_lat.cos() * b_lat.cos() * half_lon.sin().powi(2);
    2.0 * EARTH_RADIUS_KM * h.clamp(0.0, 1.0).sqrt().asin()
}

/// The round trip to expect between two points, in ms:
/// `2 × distance × DETOUR / FIBRE_KM_PER_MS + ENDS_MS`.
pub fn rtt_ms(a: Location, b: Location) -> f64 {
    2.0 * distance_km(a, b) * DETOUR / FIBRE_KM_PER_MS + ENDS_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RttMatrix;

    #[test]
    fn every_region_of_the_matrix_is_known() {
        for region in RttMatrix::aws().regions() {
            assert!(known_region(region.as_str()).is_some(), "{region}");
        }
        let dublin = known_region("eu-west-1").unwrap();
        assert_eq!((dublin.metro, dublin.country), ("Dublin", "IE"));
        assert_eq!(known_region("region"), None);
        assert_eq!(known_region("mars-1"), None);
    }

    #[test]
    fn distance_follows_the_globe() {
        let at = |latitude, longitude| Location { latitude, longitude };
        let near = |km: f64, expected: f64| assert!((km - expected).abs() < 15.0, "{km}");
        near(distance_km(at(0.0, 0.0), at(0.0, 180.0)), 20_015.0);
        near(distance_km(at(0.0, 179.0), at(0.0, -179.0)), 222.0);
        near(distance_km(at(90.0, 0.0), at(-90.0, 77.0)), 20_015.0);
        assert_eq!(distance_km(at(10.0, 20.0), at(10.0, 20.0)), 0.0);
        assert_eq!(rtt_ms(at(10.0, 20.0), at(10.0, 20.0)), ENDS_MS);
    }

    #[test]
    fn the_estimate_is_near_what_aws_measured() {
        let aws = RttMatrix::aws();
        let place = |name: &str| known_region(name).unwrap().location;
        let mut errors = Vec::new();
        for from in aws.regions() {
            for to in aws.regions().filter(|to| *to != from) {
                let real = aws.get(from, to).unwrap();
                let guess = rtt_ms(place(from.as_str()), place(to.as_str()));
                errors.push((guess - real).abs() / real);
            }
        }
        errors.sort_by(f64::total_cmp);
        assert!(errors[errors.len() / 2] < 0.15, "median {}", errors[errors.len() / 2]);
        assert!(errors[errors.len() * 9 / 10] < 0.35, "p90 {}", errors[errors.len() * 9 / 10]);
    }
}
