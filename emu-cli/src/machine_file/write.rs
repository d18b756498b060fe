//! From settings to a machine file.

use super::layout::{head, place, sections};
use super::{Mistake, Setting, Settings, is_list, is_switch, options};
use clap::{Arg, Command};
use std::fmt::Write;
use std::io;
use std::path::Path;

impl Settings {
    /// Writes a file; `-` is standard output.
    pub fn write(&self, command: &Command, path: &Path) -> Result<(), Mistake> {
        let name = path.display();
        let failed = |e: io::Error| Mistake::Write(format!("{name}: cannot be written: {e}"));
        let text = self.text(command).map_err(Mistake::File)?;
        match path.to_str() {
            Some("-") => io::Write::write_all(&mut io::stdout(), text.as_bytes()).map_err(failed),
            _ => std::fs::write(path, text).map_err(failed),
        }
    }

    /// The file's text.
    pub fn text(&self, command: &Command) -> Result<String, String> {
        let mut tables = String::new();
        let mut plain: Vec<(&str, String)> = Vec::new();
        for arg in options(command) {
            let of_arg = |s: &&Setting| s.id == arg.get_id().as_str();
            let given: Vec<&Setting> = self.0.iter().filter(of_arg).collect();
            let (section, key) = place(arg);
            let Some(first) = given.first() else { continue };
            let values = given.iter().map(|s| text_of(arg, s));
            let values: Vec<String> = values.collect::<Result<_, _>>()?;
            if is_switch(arg) {
                plain.push((section, format!("{key} = true")));
            } else if !is_list(arg) {
                plain.push((section, format!("{key} = {}", quoted(&values[0]))));
            } else if let Some(lists) = all_properties(arg, &values)
                && !sections().contains(&key.as_ref())
            {
                for list in lists {
                    let _ = writeln!(tables, "\n[[{key}]]");
                    for (key, value) in list {
                        let _ = writeln!(tables, "{} = {}", bare(&key), quoted(&value));
                    }
                }
            } else {
                let values: Vec<String> = values.iter().map(|v| quoted(v)).collect();
                plain.push((section, format!("{key} = [{}]", values.join(", "))));
            }
            debug_assert_eq!(first.value.is_none(), is_switch(arg));
        }
        let mut out = String::from("# emu run FILE.toml\n");
        for section in sections() {
            let lines: Vec<&String> = plain
                .iter()
                .filter(|p| p.0 == section)
                .map(|p| &p.1)
                .collect();
            if !lines.is_empty() {
                let _ = writeln!(out, "\n[{section}]");
                lines.iter().for_each(|line| {
                    let _ = writeln!(out, "{line}");
                });
            }
        }
        Ok(out + &tables)
    }
}

fn text_of(arg: &Arg, setting: &Setting) -> Result<String, String> {
    let Some(value) = &setting.value else {
        return Ok(String::new());
    };
    value.to_str().map(String::from).ok_or_else(|| {
        format!(
            "{}: {value:?} is not UTF-8, and cannot be in a machine file",
            place(arg).1
        )
    })
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

/// A TOML key.
fn bare(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !key.is_empty() && key.chars().all(plain) {
        true => key.into(),
        false => quoted(key),
    }
}

type Properties = Vec<(String, String)>;

/// The properties of each value, if all have some and nothing is lost by writing them so.
fn all_properties(arg: &Arg, values: &[String]) -> Option<Vec<Properties>> {
    let lists = values.iter().map(|v| properties(arg, v));
    let lists: Vec<Properties> = lists.collect::<Option<_>>()?;
    // Bare words alone (`stdio`) are better a list.
    let any = lists.iter().flatten().any(|(key, _)| key != head(arg));
    any.then_some(lists)
}

/// `HEAD,key=value,…` taken apart; two commas are one in a value.
fn properties(arg: &Arg, text: &str) -> Option<Properties> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.peek() == Some(&',') => {
                chars.next();
                parts.last_mut()?.push(',');
            }
            ',' => parts.push(String::new()),
            c => parts.last_mut()?.push(c),
        }
    }
    let mut list = Properties::new();
    for (n, part) in parts.into_iter().enumerate() {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.to_string(), value.to_string()),
            None if n == 0 && !part.is_empty() => (head(arg).to_string(), part),
            None => return None,
        };
        let odd = key.is_empty() || key.contains(',') || list.iter().any(|l| l.0 == key);
        // The first word is known by its key only.
        if odd
            || n > 0 && key == head(arg)
            || n == 0 && key == head(arg) && text.starts_with(&format!("{key}="))
        {
            return None;
        }
        list.push((key, value));
    }
    Some(list)
}
