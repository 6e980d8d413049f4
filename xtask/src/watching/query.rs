//! What a PromQL query asks for: selectors, grouping labels, variables. It reads words and braces
//! and does not know the grammar.

/// A metric and what its labels shall be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selector<'q> {
    /// The metric's name.
    pub(super) name: &'q str,
    /// Label and value, whatever the operator between them.
    pub(super) matchers: Vec<(&'q str, &'q str)>,
}

/// What stands before a list of labels.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that are no metrics though no parenthesis follows.
const WORDS: [&str; 4] = ["and", "or", "unless", "bool"];

/// Every selector, in their order.
pub(super) fn selectors(query: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some((word, after)) = next_word(rest) {
        rest = after;
        let follows = after.trim_start();
        if GROUPING.contains(&word) && follows.starts_with('(') {
            rest = follows.split_once(')').map_or("", |(_, rest)| rest);
        } else if !follows.starts_with('(') && !aggregates(follows) && !WORDS.contains(&word) {
            let mut matchers = Vec::new();
            if let Some((inside, behind)) =
                follows.strip_prefix('{').and_then(|f| f.split_once('}'))
            {
                matchers = inside.split(',').filter_map(matcher).collect();
                rest = behind;
            }
            found.push(Selector { name: word, matchers });
        }
    }
    found
}

/// The labels that are grouped or matched by.
pub(super) fn grouped(query: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some((word, after)) = next_word(rest) {
        rest = after;
        let list = after.trim_start().strip_prefix('(').and_then(|list| list.split_once(')'));
        if let Some((list, behind)) = list.filter(|_| GROUPING.contains(&word)) {
            found.extend(list.split(',').map(str::trim).filter(|label| !label.is_empty()));
            rest = behind;
        }
    }
    found
}

/// Grafana's variables.
pub(super) fn variables(query: &str) -> Vec<&str> {
    let name = |rest: &'_ str| rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
    query.split('$').skip(1).map(|rest| &rest[..name(rest)]).collect()
}

/// Whether the word before this is an aggregation such as `sum`, its labels first.
fn aggregates(follows: &str) -> bool {
    next_word(follows)
        .is_some_and(|(word, _)| follows.starts_with(word) && matches!(word, "by" | "without"))
}

fn matcher(text: &str) -> Option<(&str, &str)> {
    let label = &text[..text.find(['=', '!'])?];
    let value = text.split('"').nth(1)?;
    Some((label.trim(), value))
}

/// The next name of a metric, function or keyword, and what follows. Ranges, strings and numbers
/// are passed over.
fn next_word(query: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    while let Some(c) = query[at..].chars().next() {
        if c == '[' {
            at += query[at..].find(']')? + 1;
        } else if c == '"' {
            at += query[at + 1..].find('"')? + 2;
        } else if c.is_ascii_digit() {
            at += query[at..].find(|c: char| !is_part(c) && c != '.').unwrap_or(query.len() - at);
        } else if is_part(c) {
            let rest = &query[at..];
            let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
            return Some(rest.split_at(end));
        } else {
            at += c.len_utf8();
        }
    }
    None
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_found_and_nothing_else() {
        let query = "histogram_quantile(0.99, sum by (le, job) (rate(a_bucket{x=~\"y|z\",job=\"n\"}[5m]))) \
                     / on (job) group_right () b > 1e3 or c{} < 7";
        let found = selectors(query);
        let names: Vec<&str> = found.iter().map(|selector| selector.name).collect();
        assert_eq!(names, ["a_bucket", "b", "c"]);
        assert_eq!(found[0].matchers, [("x", "y|z"), ("job", "n")]);
        assert_eq!(grouped(query), ["le", "job", "job"]);
    }

    #[test]
    fn variables_are_found() {
        assert_eq!(
            variables("rate(a{i=~\"$instance\"}[$__rate_interval])"),
            ["instance", "__rate_interval"]
        );
    }
}
