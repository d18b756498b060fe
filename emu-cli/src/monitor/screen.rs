//! `screendump`: the screen's picture to a file, or its text. It is drawn on the monitor's thread, from what the machine hands out.

use super::Context;
use super::human::{Text, Words};
use super::qmp::{Answer, Refusal};
use emu_devices::display::Screen;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Ppm,
    Png,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Screendump {
    filename: PathBuf,
    device: Option<String>,
    head: Option<u32>,
    /// Told by the file's name otherwise; PPM as in QEMU if that says nothing.
    format: Option<Format>,
}

/// What the machine shows.
fn shown(c: &Context) -> Result<Screen, Refusal> {
    let screen = c.call(|vm| {
        let now = vm.runner.cpu.now();
        vm.with_pc(|pc| pc.screen(now)).flatten()
    })?;
    screen.ok_or_else(|| "There is no console to take a screendump from".into())
}

/// `x-query-screen-text`, which QEMU has not: the lines of a text screen, for programs that wait for a prompt.
pub fn text(c: &Context) -> Answer {
    match shown(c)?.text() {
        Some(grid) => Ok(json!({
            "columns": grid.columns,
            "rows": grid.rows,
            "lines": (0..grid.rows).map(|row| grid.line(row)).collect::<Vec<_>>(),
            "cursor": grid.cursor.map(|(column, row)| json!({ "column": column, "row": row })),
        })),
        None => Err("The screen shows graphics: take a screendump".into()),
    }
}

pub fn screendump(c: &Context, a: Screendump) -> Answer {
    if let Some(device) = a.device {
        return Err(
            format!("Device '{device}' not found: leave it out, there is one screen").into(),
        );
    }
    if a.head.is_some_and(|head| head != 0) {
        return Err("there is one screen, head 0".into());
    }
    let screen = shown(c)?;
    let png = a
        .filename
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("png"));
    let frame = screen.frame();
    let bytes = match a.format {
        Some(Format::Png) => frame.png(),
        None if png => frame.png(),
        _ => frame.ppm(),
    };
    let name = a.filename.display();
    std::fs::write(&a.filename, bytes).map_err(|e| format!("Could not write '{name}': {e}"))?;
    Ok(json!({}))
}

/// `screendump file [-f png]`.
pub fn by_hand(c: &Context, w: &Words) -> Text {
    w.most(3)?;
    let filename = w.need(0, "the file")?.into();
    let format = match w.list[1..] {
        [] => None,
        ["-f", "png"] => Some(Format::Png),
        ["-f", "ppm"] => Some(Format::Ppm),
        _ => return Err("give -f png or -f ppm, or nothing".into()),
    };
    let dump = Screendump {
        filename,
        device: None,
        head: None,
        format,
    };
    screendump(c, dump).map(|_| String::new())
}
