//! A few elements of SVG 1.1, and axes.
//!
//! Colours are classes, which the page's style sheet gives values for light and dark; an element may carry a title, which
//! browsers show under the pointer.

use std::fmt::Write;

/// A picture in the making.
pub struct Svg {
    width: f64,
    height: f64,
    label: String,
    body: String,
}

/// Which side of its point a text stands on.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Text as it may stand in a document.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

impl Svg {
    /// An empty picture; `label` is what a screen reader says.
    pub fn new(width: f64, height: f64, label: &str) -> Self {
        Self {
            width,
            height,
            label: escape(label),
            body: String::new(),
        }
    }

    pub fn rect(&mut self, (x, y): (f64, f64), (w, h): (f64, f64), class: &str, title: &str) {
        let (w, h) = (w.max(0.0), h.max(0.0));
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" class="{class}">{}</rect>"#,
            title_of(title)
        );
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        );
    }

    pub fn circle(&mut self, (x, y): (f64, f64), r: f64, class: &str, title: &str) {
        let _ = writeln!(
            self.body,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{r:.1}" class="{class}">{}</circle>"#,
            title_of(title)
        );
    }

    /// A line through points.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str, title: &str) {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
        }
        let _ = writeln!(
            self.body,
            r#"<path d="{d}" class="{class}">{}</path>"#,
            title_of(title)
        );
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{}</text>"#,
            escape(text)
        );
    }

    /// Text that reads upwards.
    pub fn text_up(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let _ = writeln!(
            self.body,
            r#"<text transform="translate({x:.1} {y:.1}) rotate(-90)" text-anchor="middle" class="{class}">{}</text>"#,
            escape(text)
        );
    }

    /// The element.
    pub fn finish(self) -> String {
        let (w, h) = (self.width, self.height);
        format!(
            "<svg viewBox=\"0 0 {w:.0} {h:.0}\" width=\"{w:.0}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
            self.label, self.body
        )
    }
}

fn title_of(text: &str) -> String {
    match text {
        "" => String::new(),
        t => format!("<title>{}</title>", escape(t)),
    }
}

/// Maps values to a stretch of the picture.
#[derive(Clone, Copy)]
pub struct Axis {
    pub from: f64,
    pub to: f64,
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    pub fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self {
            from,
            to,
            low,
            high,
            log: false,
        }
    }

    /// Both ends above 0.
    pub fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = low.max(1e-12);
        let high = high.max(low * 1.01);
        Self {
            from,
            to,
            low,
            high,
            log: true,
        }
    }

    pub fn at(&self, v: f64) -> f64 {
        let share = match self.log {
            true => (v.max(self.low * 1e-3) / self.low).ln() / (self.high / self.low).ln(),
            false => (v - self.low) / (self.high - self.low),
        };
        self.from + (self.to - self.from) * share.clamp(0.0, 1.0)
    }

    /// Round values in range, about `about` of them.
    pub fn ticks(&self, about: usize) -> Vec<f64> {
        match self.log {
            true => self.log_ticks(about),
            false => self.linear_ticks(about),
        }
    }

    fn linear_ticks(&self, about: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / about.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|m| m * power)
            .into_iter()
            .find(|s| *s >= rough * 0.999)
            .unwrap_or(power * 10.0);
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }

    fn log_ticks(&self, about: usize) -> Vec<f64> {
        let (low, high) = (
            self.low.log10().floor() as i32,
            self.high.log10().ceil() as i32,
        );
        let inside = |v: &f64| *v >= self.low * 0.999 && *v <= self.high * 1.001;
        let with = |steps: &[f64]| -> Vec<f64> {
            (low..=high)
                .flat_map(|e| steps.iter().map(move |m| m * 10f64.powi(e)))
                .filter(inside)
                .collect()
        };
        let choices = [
            &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0][..],
            &[1.0, 2.0, 5.0],
            &[1.0, 3.0],
            &[1.0],
        ];
        let lists = choices.map(with);
        let fits = lists.iter().find(|l| l.len() <= about);
        match fits {
            Some(list) => list.clone(),
            None => lists[3].iter().copied().step_by(2).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes() {
        let a = Axis::log(1.0, 100.0, 0.0, 200.0);
        assert_eq!((a.at(1.0), a.at(10.0), a.at(1000.0)), (0.0, 100.0, 200.0));
        assert_eq!(a.ticks(4), [1.0, 10.0, 100.0]);
        let a = Axis::linear(0.0, 10.0, 100.0, 0.0);
        assert_eq!(a.at(2.5), 75.0);
        assert_eq!(a.ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    }

    #[test]
    fn text_is_escaped() {
        let mut s = Svg::new(10.0, 10.0, "<a>");
        s.text((0.0, 0.0), Anchor::Start, "c", "x < \"y\" & z");
        let text = s.finish();
        assert!(text.contains("x &lt; &quot;y&quot; &amp; z") && text.contains("&lt;a&gt;"));
    }
}
