//! `screendump`: the screen's picture to a file. It is drawn on the monitor's thread, from what the machine hands out.

use super::Context;
use super::human::{Text, Words};
use super::qmp::Answer;
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

pub fn screendump(c: &Context, a: Screendump) -> Answer {
    if let Some(device) = a.device {
        return Err(
            format!("Device '{device}' not found: leave it out, there is one screen").into(),
        );
    }
    if a.head.is_some_and(|head| head != 0) {
        return Err("there is one screen, head 0".into());
    }
    let screen = c.call(|vm| {
        let now = vm.runner.cpu.now();
        vm.with_pc(|pc| pc.screen(now)).flatten()
    })?;
    let Some(screen) = screen else {
        return Err("There is no console to take a screendump from".into());
    };
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
