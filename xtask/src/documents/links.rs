//! Links between files: what a document of this repository links to is there.

use std::path::Path;

use anyhow::Result;

use crate::source;

/// Relative links that lead nowhere.
///
/// # Errors
/// A document cannot be read.
pub(super) fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for document in source::files(root, "md")? {
        let text = source::read(root, &document.to_string_lossy())?;
        let folder = root.join(&document);
        let folder = folder.parent().unwrap_or(root);
        for link in links(&text) {
            if !folder.join(link).exists() {
                problems.push(format!("{}: no file at the link {link}", document.display()));
            }
        }
    }
    Ok(problems)
}

/// The files that a document links to, without the place inside them.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let files = targets.map(|(link, _)| link.split('#').next().unwrap_or_default());
    files.filter(|link| !link.is_empty() && !link.contains("://")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_leads_to_a_file() {
        super::super::must_agree(problems);
    }

    #[test]
    fn only_links_to_files_are_looked_at() {
        let text = "[a](a.md) [b](https://example.com/b) [c](#here)\n[d](../d/e.md#there)";
        assert_eq!(links(text), ["a.md", "../d/e.md"]);
    }
}
