//! The known name that a misspelt one was meant to be, for messages.

/// The name in `list` that is nearest to `word`; `None` if none is near.
pub fn nearest<'a>(word: &str, list: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let (far, name) = list
        .into_iter()
        .map(|name| (distance(&word, name), name))
        .min_by_key(|x| x.0)?;
    (far <= (name.len().max(word.len()) / 3).max(1)).then_some(name)
}

/// The same as words: ": did you mean NAME?", or nothing.
pub fn hint<'a>(word: &str, list: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, list).map_or_else(String::new, |n| format!(": did you mean {n}?"))
}

/// How many characters must be inserted, removed or replaced to make one the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // A word that long is no name; its length is not to be paid for.
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names() {
        let names = ["486", "pentium", "pentium3", "x86-64-v2", "max"];
        for (word, meant) in [
            ("pentum", Some("pentium")),
            ("Pentium3", Some("pentium3")),
            ("x86_64-v2", Some("x86-64-v2")),
            ("maxx", Some("max")),
            ("586", Some("486")),
            ("sparc", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
        assert_eq!(hint("mx", names), ": did you mean max?");
        assert_eq!(hint("vax9000", names), "");
    }
}
