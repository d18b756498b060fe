//! Option values in QEMU's manner: `NAME,key=value,key=value`; a comma in a value is doubled.
//!
//! Whoever reads a value takes the keys that it knows and then calls [`Props::finish`], which names the key that nobody took and
//! the nearest one that somebody asked for.

use emu_core::nearest::hint;

/// The keys and values that are left.
pub struct Props {
    name: String,
    list: Vec<(String, Option<String>)>,
    known: Vec<&'static str>,
}

impl Props {
    /// Splits a value. [`name`](Self::name) is what comes first, if it is no `key=value`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut list: Vec<(String, Option<String>)> = Vec::new();
        let mut parts = text.split(',').peekable();
        while let Some(part) = parts.next() {
            let mut part = part.to_string();
            while parts.peek() == Some(&"") {
                // Two commas stand for one, which goes on with what follows.
                parts.next();
                part.push(',');
                part += parts.next().unwrap_or_default();
            }
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key.to_string(), Some(value.to_string())),
                None => (part, None),
            };
            if key.is_empty() {
                return Err("a name is empty".into());
            }
            list.push((key, value));
        }
        let name = match list.first() {
            Some((_, None)) => list.remove(0).0,
            _ => String::new(),
        };
        Ok(Self {
            name,
            list,
            known: Vec::new(),
        })
    }

    /// What the properties are of; empty if the value begins with `key=`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of `key`, which may be given once.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>, String> {
        let mut all = self.all(key)?;
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(format!("{key} is given twice")),
        }
    }

    /// All values of `key`.
    pub fn all(&mut self, key: &'static str) -> Result<Vec<String>, String> {
        self.known.push(key);
        let (taken, left) = std::mem::take(&mut self.list)
            .into_iter()
            .partition(|p| p.0 == key);
        self.list = left;
        let missing = || format!("{key} has no value: give {key}=VALUE");
        taken
            .into_iter()
            .map(|p: (String, Option<String>)| p.1.ok_or_else(missing))
            .collect()
    }

    /// `on` or `off`; the bare key is `on`.
    pub fn switch(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        if let Some(bare) = self.list.iter_mut().find(|p| p.0 == key && p.1.is_none()) {
            bare.1 = Some("on".into());
        }
        self.read(key, "on or off", |v| match v {
            "on" | "yes" | "true" => Some(true),
            "off" | "no" | "false" => Some(false),
            _ => None,
        })
    }

    /// A value that `f` reads; `what` says what it should be.
    pub fn read<T>(
        &mut self,
        key: &'static str,
        what: &str,
        f: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.text(key)? else {
            return Ok(None);
        };
        match f(&value) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("{key}={value} is not {what}")),
        }
    }

    /// Ends reading: whatever is left is a mistake.
    pub fn finish(self) -> Result<(), String> {
        let Some((key, _)) = self.list.first() else {
            return Ok(());
        };
        let hint = hint(key, self.known.iter().copied());
        let known = match self.known.len() {
            0 => "nothing".into(),
            _ => self.known.join(", "),
        };
        Err(format!(
            "{} does not know \"{key}\"{hint} (known: {known})",
            match &self.name[..] {
                "" => "this option",
                name => name,
            }
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_values_and_commas() {
        let mut p = Props::parse("user,id=a,,b,x=0x10,f=1,f=2,restrict,,").unwrap();
        assert_eq!(p.name(), "user");
        assert_eq!(p.text("id"), Ok(Some("a,b".into())));
        assert_eq!(p.text("x"), Ok(Some("0x10".into())));
        assert_eq!(p.all("f"), Ok(vec!["1".into(), "2".into()]));
        assert_eq!(p.text("none"), Ok(None));
        let error = p.finish().unwrap_err();
        assert!(error.contains("\"restrict,\""), "{error}");
        assert_eq!(Props::parse("id=x").unwrap().name(), "");
        assert!(Props::parse("").is_err() && Props::parse("a,=b").is_err());
    }

    #[test]
    fn mistakes_are_named() {
        let p = |text| Props::parse(text).unwrap();
        let mut twice = p("n,id=1,id=2");
        assert!(twice.text("id").unwrap_err().contains("twice"));
        assert_eq!(p("n,on").switch("on"), Ok(Some(true)));
        assert_eq!(p("n,on=off").switch("on"), Ok(Some(false)));
        assert!(p("n,on=2").switch("on").unwrap_err().contains("on=2"));
        assert!(p("n,id").text("id").unwrap_err().contains("id=VALUE"));
        let mut near = p("n,hostfdw=1");
        near.all("hostfwd").unwrap();
        assert!(near.finish().unwrap_err().contains("did you mean hostfwd"));
    }
}
