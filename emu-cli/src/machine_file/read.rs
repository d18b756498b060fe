//! From a machine file to settings.

use super::layout::{head, place, sections};
use super::{MAX_BYTES, Mistake, Setting, Settings, is_list, is_switch, options};
use clap::{Arg, Command};
use emu_core::nearest::hint;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file being read.
struct Reader<'a> {
    command: &'a Command,
    name: String,
    text: &'a str,
    settings: Vec<Setting>,
}

impl Settings {
    /// Reads a file.
    pub fn read(command: &Command, path: &Path) -> Result<Self, Mistake> {
        let name = path.display();
        let failed = |e| Mistake::File(format!("{name}: {e}"));
        let mut text = String::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > MAX_BYTES {
            let text = format!("{name}: longer than {MAX_BYTES} bytes: is it a machine file?");
            return Err(Mistake::File(text));
        }
        Self::parse(command, &text, &name.to_string())
    }

    /// Reads a file's text.
    pub fn parse(command: &Command, text: &str, name: &str) -> Result<Self, Mistake> {
        let mut reader = Reader {
            command,
            name: name.into(),
            text,
            settings: Vec::new(),
        };
        let table = DeTable::parse(text).map_err(|e| {
            let at = e.span().map_or(0, |s| s.start);
            reader.wrong(at, e.message().lines().next().unwrap_or_default())
        })?;
        for (key, value) in table.get_ref() {
            reader.top(key, value)?;
        }
        Ok(Self(reader.settings))
    }
}

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|b| **b == b'\n').count()
    }

    fn wrong(&self, at: usize, what: &str) -> Mistake {
        Mistake::File(format!("{}:{}: {what}", self.name, self.line(at)))
    }

    fn unknown(&self, key: &Key, section: &str, known: &[String]) -> Mistake {
        let word = key.get_ref();
        let hint = hint(word, known.iter().map(String::as_str));
        let known = match hint.is_empty() {
            true => format!(" (known: {})", known.join(", ")),
            false => String::new(),
        };
        let text = format!("unknown {section} \"{word}\"{hint}{known}");
        self.wrong(key.span().start, &text)
    }

    /// A section, or a list of options with properties.
    fn top(&mut self, key: &Key, value: &Spanned<DeValue>) -> Result<(), Mistake> {
        let name = key.get_ref().as_ref();
        let listed = options(self.command)
            .filter(|arg| is_list(arg))
            .find(|arg| place(arg).1 == name && !sections().contains(&name));
        match (value.get_ref(), listed) {
            (DeValue::Table(table), _) if sections().contains(&name) => self.section(name, table),
            (DeValue::Array(list), Some(arg)) => {
                list.iter().try_for_each(|item| self.item(arg, item))
            }
            (DeValue::Table(_), Some(_)) => {
                let text = format!("[{name}] can be there several times: write [[{name}]]");
                Err(self.wrong(key.span().start, &text))
            }
            (DeValue::Table(_) | DeValue::Array(_), None) => {
                let lists = options(self.command).filter(|arg| is_list(arg));
                let lists = lists.map(|arg| place(arg).1.into_owned());
                let known: Vec<String> = sections()
                    .into_iter()
                    .map(String::from)
                    .chain(lists)
                    .collect();
                Err(self.unknown(key, "section", &known))
            }
            _ => {
                let at = options(self.command).map(place).find(|p| p.1 == name);
                let text = match at {
                    Some((section, key)) => format!("{key} belongs in [{section}]"),
                    None => format!("\"{name}\" is in no section: begin with [machine] or another"),
                };
                Err(self.wrong(key.span().start, &text))
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable) -> Result<(), Mistake> {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let all = || options(self.command).map(|arg| (arg, place(arg)));
            let Some((arg, _)) = all().find(|(_, p)| p.0 == section && p.1 == name) else {
                if let Some((_, (right, _))) = all().find(|(_, p)| p.1 == name) {
                    let text = format!("{name} belongs in [{right}]");
                    return Err(self.wrong(key.span().start, &text));
                }
                let here = all().filter(|(_, p)| p.0 == section);
                let known: Vec<String> = here.map(|(_, p)| p.1.into_owned()).collect();
                return Err(self.unknown(key, &format!("key of [{section}]"), &known));
            };
            match value.get_ref() {
                DeValue::Array(list) if is_list(arg) => {
                    list.iter().try_for_each(|item| self.item(arg, item))?;
                }
                _ => self.item(arg, value)?,
            }
        }
        Ok(())
    }

    /// One value of an option.
    fn item(&mut self, arg: &Arg, value: &Spanned<DeValue>) -> Result<(), Mistake> {
        let at = value.span().start;
        let key = place(arg).1;
        let value = match value.get_ref() {
            DeValue::Boolean(on) if is_switch(arg) => {
                if !on {
                    return Ok(());
                }
                None
            }
            _ if is_switch(arg) => {
                return Err(self.wrong(at, &format!("{key} is true or false")));
            }
            DeValue::Table(table) if is_list(arg) => Some(self.properties(arg, table)?),
            other => Some(
                self.plain(other)
                    .ok_or_else(|| self.wrong(at, &format!("{key} takes a text or a number")))?,
            ),
        };
        self.settings.push(Setting {
            id: arg.get_id().as_str().into(),
            value: value.map(Into::into),
            line: self.line(at),
        });
        Ok(())
    }

    /// A table as `HEAD,key=value,key=value`.
    fn properties(&self, arg: &Arg, table: &DeTable) -> Result<String, Mistake> {
        let (mut first, mut rest) = (String::new(), Vec::new());
        for (key, value) in table {
            let name = key.get_ref();
            let text = match value.get_ref() {
                DeValue::Boolean(on) => Some(String::from(if *on { "on" } else { "off" })),
                other => self.plain(other),
            };
            let Some(text) = text else {
                let text = format!("{name} takes a text, a number, true or false");
                return Err(self.wrong(value.span().start, &text));
            };
            if name.contains([',', '=']) {
                let text = format!("\"{name}\" is no key");
                return Err(self.wrong(key.span().start, &text));
            }
            let text = text.replace(',', ",,");
            match name == head(arg) {
                true => first = text,
                false => rest.push(format!("{name}={text}")),
            }
        }
        if !first.is_empty() {
            rest.insert(0, first);
        }
        Ok(rest.join(","))
    }

    fn plain(&self, value: &DeValue) -> Option<String> {
        Some(match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(n) => {
                let digits = n.as_str();
                match n.radix() {
                    16 => format!("0x{digits}"),
                    10 => digits.into(),
                    radix => i64::from_str_radix(digits, radix).ok()?.to_string(),
                }
            }
            DeValue::Float(x) => x.as_str().into(),
            _ => return None,
        })
    }
}
