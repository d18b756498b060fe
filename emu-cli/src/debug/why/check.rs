//! A check in our own sources, as text: the lines that say what it asks, and what of the manual its comments cite.
//!
//! Sources are laid out by rustfmt, so indentation tells what belongs to what: the condition of a line is the nearest line
//! above it that is indented less. [`lines`] shows that much and no more; [`citation`] goes from the check outwards, to
//! comments beside it, to its function's and at last to its file's.

use std::ops::Range;

/// Lines that are shown of one check.
const MOST: usize = 12;
/// Lines of a `let` that a condition refers to, or of the statement before one that always faults.
const MOST_OF_LET: usize = 6;
/// How far above the line its condition or the `let` may be.
const NEAR: usize = 60;

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// A source's lines; `at` and ranges count from 0.
struct Source<'a>(Vec<&'a str>);

impl Source<'_> {
    fn trimmed(&self, at: usize) -> &str {
        self.0[at].trim()
    }

    /// The line above that is indented less, where what contains this one begins.
    fn outer(&self, at: usize) -> Option<usize> {
        let inner = indent(self.0[at]);
        (at.saturating_sub(NEAR)..at)
            .rev()
            .find(|&n| !self.0[n].trim().is_empty() && indent(self.0[n]) < inner)
    }

    /// Where the statement begins whose head ends here: a condition may have several lines.
    fn head(&self, end: usize) -> Range<usize> {
        let this = self.trimmed(end);
        let goes_on = this.starts_with(['{', '}', ')']) || this.starts_with("else");
        let mut from = end;
        if goes_on && !this.starts_with("} else") {
            let depth = indent(self.0[end]);
            let begins = |&n: &usize| {
                let l = self.trimmed(n);
                indent(self.0[n]) == depth && !l.is_empty() && !l.starts_with(['{', '}', ')'])
            };
            let found = (end.saturating_sub(NEAR)..end).rev().find(begins);
            from = found.unwrap_or(end);
        }
        from..end + 1
    }

    /// The beginning of the `if` that this `else` belongs to.
    fn first_branch(&self, at: usize) -> Option<usize> {
        let depth = indent(self.0[at]);
        (at.saturating_sub(NEAR)..at).rev().find(|&n| {
            let l = self.trimmed(n);
            indent(self.0[n]) == depth && (l.starts_with("if ") || l.contains(" if "))
        })
    }

    /// Where the statement that begins here ends.
    fn end(&self, from: usize) -> usize {
        if self.trimmed(from).ends_with([';', ',', '}']) {
            return from + 1;
        }
        let depth = indent(self.0[from]);
        let last = (self.0.len()).min(from + NEAR);
        let closes = |n: &usize| {
            let l = self.0[*n];
            let done = l.trim_end().ends_with([';', ',', '}', ')']);
            !l.trim().is_empty() && (indent(l) < depth || indent(l) == depth && done)
        };
        match (from + 1..last).find(closes) {
            // The block around it ends first: it is that block's value.
            Some(n) if indent(self.0[n]) < depth => n,
            Some(n) => n + 1,
            None => from + 1,
        }
    }

    fn text(&self, range: Range<usize>) -> String {
        self.0[range].join(" ")
    }

    /// The function around a line: its head.
    fn function(&self, at: usize) -> Option<usize> {
        let mut depth = indent(self.0[at]).max(1);
        for n in (0..at).rev() {
            let l = self.0[n];
            // A head of several lines ends with `) -> R {`, as far out as it begins.
            let head = indent(l) == depth && is_function(l);
            if !l.trim().is_empty() && (indent(l) < depth || head) {
                depth = indent(l);
                if is_function(l) || l.trim_start().starts_with("macro_rules!") {
                    return Some(n);
                }
                if depth == 0 && !l.starts_with([')', '}', '{']) {
                    return None;
                }
            }
        }
        None
    }
}

fn is_function(line: &str) -> bool {
    let l = line.trim_start();
    let words = [
        "fn ",
        "pub fn ",
        "pub(crate) fn ",
        "pub(super) fn ",
        "const fn ",
    ];
    words.iter().any(|w| l.starts_with(w))
}

/// Whether a line says on its own when it applies.
fn says_when(line: &str) -> bool {
    let l = line.trim_start();
    l.starts_with("if ") || l.contains("then_some(") || l.contains(" if ") && is_arm(line)
}

/// An arm of a `match`.
fn is_arm(line: &str) -> bool {
    line.contains(" => ") || line.trim_end().ends_with(" =>") || line.trim_end().ends_with("=> {")
}

/// The plain names that stand alone in a condition: `allowed` of `if !allowed {`.
fn names(condition: &str) -> Vec<&str> {
    let asked = match condition.find("if ") {
        Some(at) => &condition[at + 3..],
        // `let PATTERN = NAME else {`, and `NAME.then_some(…)`.
        None => match (condition.split_once(" = "), condition.find(".then_some(")) {
            (Some((_, right)), None) => right.split(" else").next().unwrap_or_default(),
            (None, Some(at)) => &condition[..at],
            _ => return Vec::new(),
        },
    };
    let asked = asked.split('{').next().unwrap_or_default();
    let plain = |w: &&str| {
        let first = w.chars().next();
        first.is_some_and(|c| c.is_ascii_lowercase())
            && w.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    asked
        .split("&&")
        .flat_map(|p| p.split("||"))
        .map(|w| w.trim().trim_start_matches('!'))
        .filter(plain)
        .collect()
}

/// The lines of a check that raises at this line (from 1), dedented; `...` where some are left out.
pub fn lines(text: &str, line: u32) -> Vec<String> {
    let source = Source(text.lines().collect());
    let at = (line as usize).wrapping_sub(1);
    if at >= source.0.len() {
        return Vec::new();
    }
    let own = at..source.end(at).min(at + MOST_OF_LET);
    let mut parts: Vec<Range<usize>> = std::iter::once(own).collect();
    let mut head = at..at + 1;
    if !says_when(source.0[at]) && !is_arm(source.0[at]) {
        match source.outer(at) {
            Some(outer) if !is_function(source.0[source.head(outer).start]) => {
                head = source.head(outer);
                if source.trimmed(outer).starts_with("} else {")
                    && let Some(first) = source.first_branch(outer)
                {
                    parts.push(source.head(first));
                }
                parts.push(head.clone());
            }
            _ => {
                // It always faults: what stands before it says when it comes to that.
                let depth = indent(source.0[at]);
                let before = (at.saturating_sub(NEAR)..at)
                    .rev()
                    .take_while(|&n| source.trimmed(n).is_empty() || indent(source.0[n]) >= depth)
                    .find(|&n| {
                        let l = source.trimmed(n);
                        indent(source.0[n]) == depth
                            && (l.starts_with("if ") || l.starts_with("match "))
                    });
                if let Some(n) = before {
                    head = n..n + 1;
                    parts.push(n..source.end(n).min(n + MOST_OF_LET));
                }
            }
        }
    }
    if is_arm(source.0[head.end - 1]) || source.0[head.clone()].iter().any(|l| is_arm(l)) {
        parts.extend(source.outer(head.start).map(|m| source.head(m)));
    }
    let condition = source.text(head.clone());
    for name in names(&condition) {
        let defines = |&n: &usize| {
            let bound = source.trimmed(n).strip_prefix("let ");
            let pattern = bound.and_then(|l| l.split(" =").next()).unwrap_or("");
            pattern
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .any(|w| w == name)
        };
        let from = source
            .function(at)
            .unwrap_or(0)
            .max(at.saturating_sub(NEAR));
        if let Some(n) = (from..head.start).rev().find(defines) {
            parts.push(n..source.end(n).min(n + MOST_OF_LET));
        }
    }
    parts.sort_by_key(|p| p.start);
    let mut wanted: Vec<usize> = parts.into_iter().flatten().collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted.retain(|&n| n < source.0.len() && !source.0[n].trim().is_empty());
    // The line itself is the last that could be spared.
    while wanted.len() > MOST {
        let far = usize::from(wanted[0] == at);
        wanted.remove(far);
    }
    let left = wanted
        .iter()
        .map(|&n| indent(source.0[n]))
        .min()
        .unwrap_or(0);
    let mut out = Vec::new();
    let mut last = None;
    for n in wanted {
        if last.is_some_and(|l| l + 1 < n) {
            out.push("...".into());
        }
        out.push(source.0[n][left..].to_string());
        last = Some(n);
    }
    out
}

/// What the manual says of the check at this line (from 1), by the nearest comment that cites it.
pub fn citation(text: &str, line: u32) -> Option<String> {
    let source = Source(text.lines().collect());
    let at = (line as usize).wrapping_sub(1);
    if at >= source.0.len() {
        return None;
    }
    let comment = |n: usize| {
        let l = source.0[n];
        l.find("// ").map(|c| l[c + 3..].trim())
    };
    // Beside it: from its condition on, and right above that.
    let head = match source.outer(at) {
        Some(outer) if !is_function(source.0[source.head(outer).start]) => source.head(outer).start,
        _ => at,
    };
    let above = |from: usize, what: &dyn Fn(&str) -> bool| {
        let first = (0..from).rev().take_while(|&n| what(source.trimmed(n)));
        first.last().unwrap_or(from)
    };
    let mut from = above(at, &|l| l.starts_with("// "));
    let beside: Vec<&str> = (from..=at).filter_map(comment).collect();
    if let Some(c) = cites(&beside.join(" ")) {
        return Some(c);
    }
    from = above(head, &|l| l.starts_with("// "));
    let beside: Vec<&str> = (from..=at).filter_map(comment).collect();
    if let Some(c) = cites(&beside.join(" ")) {
        return Some(c);
    }
    if let Some(f) = source.function(at) {
        let from = above(f, &|l| l.starts_with("///") || l.starts_with("#["));
        let doc: Vec<&str> = (from..f)
            .filter_map(|n| source.trimmed(n).strip_prefix("///"))
            .map(str::trim)
            .collect();
        if let Some(c) = cites(&doc.join(" ")) {
            return Some(c);
        }
    }
    let top: Vec<&str> = source
        .0
        .iter()
        .map_while(|l| l.strip_prefix("//!"))
        .map(str::trim)
        .collect();
    cites(&top.join(" "))
}

/// The first citation in a comment's words: up to the parenthesis that it stands in, a colon, or the sentence's end.
fn cites(words: &str) -> Option<String> {
    let at = ["SDM Vol. ", "APM Vol. "]
        .iter()
        .filter_map(|w| words.find(w))
        .min()?;
    let from = words[..at].strip_suffix("AMD ").map_or(at, str::len);
    let rest = &words[from..];
    let open = words[..from].matches('(').count() > words[..from].matches(')').count();
    let mut depth = 0;
    let mut end = rest.len();
    for (n, c) in rest.char_indices() {
        let next = rest[n + c.len_utf8()..].chars().next();
        let stops = match c {
            '(' => {
                depth += 1;
                false
            }
            ')' => {
                depth -= 1;
                open && depth < 0
            }
            ':' => true,
            '.' => next == Some(' ') && !rest[..n].ends_with("Vol") || next.is_none(),
            _ => false,
        };
        if stops {
            end = n;
            break;
        }
    }
    Some(rest[..end].trim().to_string())
}
