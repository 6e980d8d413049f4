//! Reading the tree's own files, and finding words in Rust source.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Folders that are not ours to read: built, or compiled for guests by workspaces of their own.
const SKIPPED: &[&str] = &["target", "examples", "tests/guests"];

/// Reads a file of the repository.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(root: &Path, path: &str) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))
}

/// Every file of the repository with this extension, relative to its root, sorted.
///
/// # Errors
/// A folder cannot be listed.
pub(crate) fn files(root: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(root, Path::new(""), extension, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(root: &Path, folder: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    let listing = fs::read_dir(root.join(folder));
    for entry in listing.with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || SKIPPED.iter().any(|skipped| path == Path::new(skipped)) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(root, &path, extension, found)?;
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    Ok(())
}

/// A line of Rust without its comment. A `//` inside a string counts as one too, which is close
/// enough for looking at keywords.
pub(crate) fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether `text` holds `word` with nothing of an identifier next to it.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// The names in `UPPER_SNAKE` case that stand between two marks: quotes, or backticks.
pub(crate) fn upper_names(text: &str, mark: char) -> Vec<&str> {
    let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name = |word: &&str| word.len() > 2 && word.chars().all(upper) && word.contains(is_letter);
    text.lines().flat_map(|line| line.split(mark).skip(1).step_by(2)).filter(name).collect()
}

fn is_letter(c: char) -> bool {
    c.is_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_only_whole() {
        assert!(has_word("let a = b;", "b"));
        assert!(has_word("b", "b"));
        assert!(!has_word("bb b_c ab", "b"));
    }

    #[test]
    fn a_comment_is_cut_off() {
        assert_eq!(without_comment("a // b"), "a ");
        assert_eq!(without_comment("/// b"), "");
        assert_eq!(without_comment("a"), "a");
    }

    #[test]
    fn upper_names_stand_between_marks() {
        let text = "`ONE_1` two `three` FOUR `FIVE`\n`404` ` SIX` `A`";
        assert_eq!(upper_names(text, '`'), ["ONE_1", "FIVE"]);
    }
}
