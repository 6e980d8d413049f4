//! `docs/limits.md` against `model/src/limits.rs`: every constant has a row, with its value.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::source;

const CODE: &str = "model/src/limits.rs";
const DOCUMENT: &str = "docs/limits.md";

/// What the two disagree on.
///
/// # Errors
/// A file cannot be read.
pub(super) fn problems(root: &Path) -> Result<Vec<String>> {
    Ok(differences(&source::read(root, CODE)?, &source::read(root, DOCUMENT)?))
}

fn differences(code: &str, document: &str) -> Vec<String> {
    let constants = constants(code);
    let rows = rows(document);
    let mut problems = Vec::new();
    for (name, expression) in &constants {
        let Some(text) = rows.get(name) else {
            problems.push(format!("{DOCUMENT}: no row for `{name}` of {CODE}"));
            continue;
        };
        match (evaluate(expression), in_base_units(text)) {
            (Some(real), Some(said)) if real == said => {}
            (Some(real), _) => {
                problems.push(format!("{DOCUMENT}: `{name}` is {real} in the code, not {text}"));
            }
            (None, _) => problems.push(format!("{CODE}: cannot compute `{name}` = {expression}")),
        }
    }
    let gone = rows.keys().filter(|name| !constants.contains_key(*name));
    problems.extend(gone.map(|name| format!("{DOCUMENT}: `{name}` is not in {CODE}")));
    problems
}

/// `pub const NAME: type = expression;` by name.
fn constants(code: &str) -> BTreeMap<&str, &str> {
    let of_line = |line| -> Option<(&str, &str)> {
        let (name, rest) = str::strip_prefix(line, "pub const ")?.split_once(':')?;
        Some((name, rest.split_once('=')?.1.trim().trim_end_matches(';')))
    };
    code.lines().filter_map(of_line).collect()
}

/// Rows of the form "| `NAME` | value | …", by name.
fn rows(document: &str) -> BTreeMap<&str, &str> {
    let of_line = |line| -> Option<(&str, &str)> {
        let (name, rest) = str::strip_prefix(line, "| `")?.split_once("` |")?;
        Some((name, rest.split('|').next()?.trim()))
    };
    document.lines().filter_map(of_line).collect()
}

/// A product or a shift of whole numbers.
fn evaluate(expression: &str) -> Option<u64> {
    if let Some((left, right)) = expression.split_once("<<") {
        return evaluate(left)?.checked_shl(u32::try_from(evaluate(right)?).ok()?);
    }
    if let Some((left, right)) = expression.split_once('*') {
        return evaluate(left)?.checked_mul(evaluate(right)?);
    }
    expression.trim().replace('_', "").parse().ok()
}

/// A value as people write it, in bytes, milliseconds or pieces.
fn in_base_units(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u64 = number.replace(',', "").parse().ok()?;
    let unit = match unit {
        "" | "bytes" | "ms" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "s" => 1_000,
        "min" => 60_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_row_with_its_value() {
        super::super::must_agree(problems);
    }

    #[test]
    fn every_difference_is_named() {
        let code = "pub const A_MAX: u64 = 2 << 10;\npub const B_MAX: u64 = 15 * 60_000;\n\
                    pub const C_MAX: usize = 7;\npub const D_MAX: usize = 7;\n";
        let document = "| Name | Value |\n| `A_MAX` | 2 KiB | x |\n| `B_MAX` | 14 min |\n\
                        | `C_MAX` | seven |\n| `E_MAX` | 1 |\n";
        assert_eq!(
            differences(code, document),
            [
                "docs/limits.md: `B_MAX` is 900000 in the code, not 14 min",
                "docs/limits.md: `C_MAX` is 7 in the code, not seven",
                "docs/limits.md: no row for `D_MAX` of model/src/limits.rs",
                "docs/limits.md: `E_MAX` is not in model/src/limits.rs",
            ]
        );
    }
}
