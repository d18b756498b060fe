//! Lists of symbols as text: System.map, `nm`, `nm -n -S`, `/proc/kallsyms`.
//!
//! A line is `ADDRESS [SIZE] TYPE NAME`, numbers hexadecimal without prefix, TYPE one letter as `nm` prints it; in kallsyms a `[module]`
//! may follow, and makes a module of its own. An address of eight digits is a system of 32 bits.

use super::module::{Binding, Builder, Entry, Kind, Module};

/// So many modules can be in one list; a line of more is an error.
const MODULES: usize = 4096;

struct Line<'a> {
    entry: Entry<'a>,
    module: Option<&'a str>,
    digits: usize,
}

/// `Ok(None)`: a line without an address (`nm` has such ones for what is undefined).
fn line(text: &str) -> Result<Option<Line<'_>>, ()> {
    // kallsyms separates the module by a tab, everything else by spaces.
    let mut words = text.split_ascii_whitespace();
    let first = words.next().ok_or(())?;
    let second = words.next().ok_or(())?;
    if matches!(first, "U" | "w" | "v") && words.next().is_none() {
        return Ok(None);
    }
    let hex = |word: &str| {
        let digits = word.bytes().all(|b| b.is_ascii_hexdigit()) && word.len() <= 16;
        (digits && word.len() >= 8).then(|| u64::from_str_radix(word, 16).map_err(drop))
    };
    let address = hex(first).ok_or(())??;
    let (size, letter) = match hex(second) {
        Some(size) => (size?, words.next().ok_or(())?),
        None => (0, second),
    };
    let (name, module) = (words.next().ok_or(())?, words.next());
    let module = match module {
        Some(m) => Some(
            m.strip_prefix('[')
                .and_then(|m| m.strip_suffix(']'))
                .ok_or(())?,
        ),
        None => None,
    };
    let [letter] = letter.as_bytes() else {
        return Err(());
    };
    if !(letter.is_ascii_alphabetic() || matches!(letter, b'-' | b'?')) {
        return Err(());
    }
    let (kind, binding, absolute) = meaning(*letter);
    let entry = Entry {
        name,
        address,
        size,
        kind,
        binding,
        absolute,
    };
    Ok(Some(Line {
        entry,
        module,
        digits: first.len(),
    }))
}

/// What the letter that `nm` prints says; the last: whether the symbol lies nowhere.
pub fn meaning(letter: u8) -> (Kind, Binding, bool) {
    let kind = match letter.to_ascii_lowercase() {
        b't' | b'i' | b'w' => Kind::Function,
        b'b' | b'c' | b'd' | b'g' | b'r' | b's' | b'u' | b'v' => Kind::Data,
        _ => Kind::Label,
    };
    let binding = match letter {
        b'w' | b'W' | b'v' | b'V' => Binding::Weak,
        b'i' | b'u' => Binding::Global,
        c if c.is_ascii_uppercase() => Binding::Global,
        _ => Binding::Local,
    };
    (kind, binding, matches!(letter, b'a' | b'A'))
}

/// Whether a file that begins so is such a list.
pub fn is_list(start: &str) -> bool {
    start
        .lines()
        .find(|l| !l.trim().is_empty())
        .is_some_and(|l| line(l).is_ok())
}

/// The modules of a list; `name` for what is in none.
pub fn parse(text: &str, name: &str) -> Result<Vec<Module>, String> {
    let mut own = Builder::default();
    let mut others: Vec<(&str, Builder)> = Vec::new();
    let mut width = 4;
    let mut hidden = true;
    for (i, l) in text.lines().enumerate() {
        if l.trim().is_empty() {
            continue;
        }
        let wrong = |what: &str| {
            let l: String = l.chars().take(60).collect();
            format!("line {}, \"{}\": {what}", i + 1, l.escape_debug())
        };
        let Some(line) = line(l).map_err(|()| wrong("\"ADDRESS TYPE NAME\" is expected"))? else {
            continue;
        };
        if line.digits > 8 {
            width = 8;
        }
        hidden &= line.entry.address == 0;
        match line.module {
            None => own.add(&line.entry),
            Some(m) => {
                let known = others.iter().rposition(|x| x.0 == m);
                let at = match known {
                    Some(at) => at,
                    None if others.len() == MODULES => {
                        return Err(wrong(&format!("more than {MODULES} modules")));
                    }
                    None => {
                        others.push((m, Builder::default()));
                        others.len() - 1
                    }
                };
                others[at].1.add(&line.entry);
            }
        }
    }
    if own.len() == 0 && others.is_empty() {
        return Err("no symbols in it".into());
    }
    if hidden {
        return Err(
            "all its addresses are 0: kernel.kptr_restrict hides them; read it as root".into(),
        );
    }
    percpu(&mut own);
    let mut modules = vec![own.build(name, width)];
    modules.extend(others.into_iter().map(|(name, b)| b.build(name, width)));
    Ok(modules)
}

/// A kernel for SMP on x86-64 has its per-CPU variables at offsets from 0: nothing lies there.
pub fn percpu(b: &mut Builder) {
    if b.value("__per_cpu_start") == Some(0)
        && let Some(end) = b.value("__per_cpu_end")
    {
        b.absolute_below(end.saturating_add(1));
    }
}
