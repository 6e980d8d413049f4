//! The nearest right word to a misspelt one.

/// The candidate most like `given`, when one is alike enough to have been meant.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this a suggestion confuses more than it helps (Jaro-Winkler, 0 to 1).
    const SIMILARITY_MIN: f64 = 0.75;
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(given, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn suggests_only_what_is_alike() {
        assert_eq!(nearest("helo", ["hello", "work"]), Some("hello"));
        assert_eq!(nearest("routse", ["routes", "limits"]), Some("routes"));
        assert_eq!(nearest("zzz", ["hello", "work"]), None);
    }
}
