//! The numbers that the human monitor's commands take: expressions as in QEMU's monitor.
//!
//! `+ -` bind least, then `& | ^`, then `* / %`; numbers as in C, characters in quotes, registers behind `$`. 64 bits, wrapping.

/// Brackets and signs inside each other.
const DEEPEST: usize = 32;

/// Reads an expression from the beginning of a text; gives its value and the text behind it.
pub fn read<'a>(
    text: &'a str,
    register: &dyn Fn(&str) -> Option<u64>,
) -> Result<(u64, &'a str), String> {
    let mut e = Reader {
        rest: text,
        register,
        depth: 0,
    };
    let value = e.sum()?;
    Ok((value, e.rest))
}

/// The same of a whole text.
pub fn value(text: &str, register: &dyn Fn(&str) -> Option<u64>) -> Result<u64, String> {
    match read(text, register)? {
        (value, "") => Ok(value),
        (_, rest) => Err(format!("unexpected \"{rest}\" behind the number")),
    }
}

struct Reader<'a, 'b> {
    rest: &'a str,
    register: &'b dyn Fn(&str) -> Option<u64>,
    depth: usize,
}

impl<'a> Reader<'a, '_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// The operator that comes next, if it is one of these.
    fn operator(&mut self, known: &str) -> Option<char> {
        self.skip();
        let c = self.rest.chars().next().filter(|c| known.contains(*c))?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn sum(&mut self) -> Result<u64, String> {
        let mut value = self.logic()?;
        while let Some(op) = self.operator("+-") {
            let other = self.logic()?;
            value = match op {
                '+' => value.wrapping_add(other),
                _ => value.wrapping_sub(other),
            };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<u64, String> {
        let mut value = self.product()?;
        while let Some(op) = self.operator("&|^") {
            let other = self.product()?;
            value = match op {
                '&' => value & other,
                '|' => value | other,
                _ => value ^ other,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<u64, String> {
        let mut value = self.unary()?;
        while let Some(op) = self.operator("*/%") {
            let other = self.unary()?;
            value = match op {
                '*' => value.wrapping_mul(other),
                '/' => value.checked_div(other).ok_or("division by zero")?,
                _ => value.checked_rem(other).ok_or("division by zero")?,
            };
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<u64, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("too many brackets".into());
        }
        let value = match self.operator("+-~(") {
            Some('-') => self.unary()?.wrapping_neg(),
            Some('~') => !self.unary()?,
            Some('(') => {
                let value = self.sum()?;
                self.operator(")").ok_or("')' expected")?;
                value
            }
            Some(_) => self.unary()?,
            None => self.primary()?,
        };
        self.depth -= 1;
        self.skip();
        Ok(value)
    }

    fn primary(&mut self) -> Result<u64, String> {
        if let Some(quoted) = self.rest.strip_prefix('\'') {
            let mut chars = quoted.chars();
            return match (chars.next(), chars.next()) {
                (Some(c), Some('\'')) => {
                    self.rest = chars.as_str();
                    Ok(c.into())
                }
                _ => Err("missing terminating ' character".into()),
            };
        }
        let named = self.rest.strip_prefix('$');
        let text = named.unwrap_or(self.rest);
        let end = text
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.' && named.is_some()))
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if named.is_some() {
            let value = (self.register)(word).ok_or_else(|| format!("unknown register ${word}"))?;
            self.rest = rest;
            return Ok(value);
        }
        let lower = word.to_ascii_lowercase();
        let number = if let Some(hex) = lower.strip_prefix("0x") {
            u64::from_str_radix(hex, 16)
        } else if lower.len() > 1 && lower.starts_with('0') {
            u64::from_str_radix(&lower[1..], 8)
        } else {
            lower.parse()
        };
        self.rest = rest;
        number.map_err(|_| match word {
            "" => "a number is missing".into(),
            _ => format!("\"{word}\" is no number"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_expressions() {
        let reg = |name: &str| (name == "rax").then_some(0x100);
        for (text, want) in [
            ("0x10", 16),
            ("010", 8),
            ("0", 0),
            ("1+2*3", 7),
            ("(1+2)*3", 9),
            ("7 & 3 + 1", 4),
            ("-1", u64::MAX),
            ("~0 - 1", u64::MAX - 1),
            ("$rax+'A'", 0x141),
            ("10 % 4", 2),
        ] {
            assert_eq!(value(text, &reg), Ok(want), "{text}");
        }
        for bad in [
            "", "1+", "$rcx", "0x", "0xg", "1/0", "(1", "1)", "'ab'", "9", "é", "1 2",
        ] {
            let wrong = value(bad, &reg).is_err();
            assert_eq!(wrong, bad != "9", "{bad}");
        }
        assert!(value(&"(".repeat(1000), &reg).is_err());
        assert_eq!(
            read("0x70 /b", &reg).map(|r| r.1),
            Err("\"b\" is no number".into())
        );
        assert_eq!(read("1 2", &reg), Ok((1, "2")));
    }
}
