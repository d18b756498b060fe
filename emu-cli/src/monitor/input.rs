//! Keys and pointers: `send-key` and `input-send-event`.
//!
//! Typed keys go down together and up again after their hold time, one combination after the other, by a thread of their own: a guest
//! sees them in order, and the client has its answer at once. While the machine is stopped, they wait.

use super::Context;
use super::qmp::{Answer, Refusal};
use crate::commands::Commands;
use crate::keys;
use crate::state::RunState;
use emu_core::nearest::hint;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Combinations that wait to be typed; more are refused.
const QUEUE: usize = 1024;
/// Keys that go down together.
const TOGETHER: usize = 16;
/// How long a key is held when nothing is said, and the longest that one may be.
const HOLD: u64 = 100;
const LONGEST_HOLD: u64 = 60_000;
/// Between the end of one combination and the next.
const GAP: Duration = Duration::from_millis(10);
/// How often a stopped machine is looked at.
const STOPPED: Duration = Duration::from_millis(20);
/// The most that one command moves the mouse.
const FAR: i32 = 4096;
/// QEMU's range for absolute coordinates.
const ABSOLUTE: i64 = 0x7fff;

struct Combination {
    keys: Vec<u16>,
    hold: Duration,
}

/// The way from clients to keyboard and mouse.
pub struct Input {
    typist: Mutex<Option<SyncSender<Combination>>>,
    commands: Arc<Commands>,
    /// The mouse's buttons that are down.
    buttons: Mutex<u8>,
}

impl Input {
    pub fn new(commands: Arc<Commands>) -> Self {
        Self {
            typist: Mutex::default(),
            commands,
            buttons: Mutex::default(),
        }
    }

    fn buttons(&self) -> MutexGuard<'_, u8> {
        self.buttons.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Has keys pressed together and let go.
    pub fn press(&self, keys: Vec<u16>, hold: Option<u64>) -> Answer {
        if keys.len() > TOGETHER {
            return Err(format!("{} keys at once: at most {TOGETHER}", keys.len()).into());
        }
        let hold = hold.unwrap_or(HOLD);
        if hold > LONGEST_HOLD {
            return Err(format!("hold-time {hold}: at most {LONGEST_HOLD} ms").into());
        }
        let hold = Duration::from_millis(hold);
        let mut typist = self.typist.lock().unwrap_or_else(|e| e.into_inner());
        if typist.is_none() {
            let (sender, receiver) = sync_channel::<Combination>(QUEUE);
            let commands = self.commands.clone();
            let work = move || {
                for combination in receiver {
                    if type_keys(&commands, combination).is_none() {
                        return;
                    }
                }
            };
            std::thread::Builder::new()
                .name("keys".into())
                .stack_size(128 << 10)
                .spawn(work)
                .map_err(|e| format!("no thread for the keys: {e}"))?;
            *typist = Some(sender);
        }
        let sender = typist.as_ref().expect("there is one now");
        match sender.try_send(Combination { keys, hold }) {
            Ok(()) => Ok(json!({})),
            Err(_) => Err(format!("{QUEUE} key combinations wait already").into()),
        }
    }
}

/// Types; `None`: the run has ended.
fn type_keys(commands: &Commands, combination: Combination) -> Option<()> {
    let Combination { keys, hold } = combination;
    let up: Vec<u16> = keys.iter().rev().copied().collect();
    change(commands, keys, true)?;
    std::thread::sleep(hold);
    change(commands, up, false)?;
    std::thread::sleep(GAP);
    Some(())
}

/// Keys go down or up, as soon as the machine runs.
fn change(commands: &Commands, keys: Vec<u16>, down: bool) -> Option<()> {
    loop {
        let keys = keys.clone();
        let done = commands.call(move |vm| {
            let running = vm.state() == RunState::Running;
            if running {
                let now = vm.runner.cpu.now();
                vm.with_pc(|pc| keys.iter().for_each(|&key| pc.key(key, down, now)));
            }
            running
        })?;
        if done {
            return Some(());
        }
        std::thread::sleep(STOPPED);
    }
}

/// QAPI's `KeyValue`: a name, or a set 1 code with 80h for the grey keys.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    tag = "type",
    content = "data",
    rename_all = "lowercase"
)]
pub enum Key {
    Number(u32),
    Qcode(String),
}

impl Key {
    fn code(&self) -> Result<u16, Refusal> {
        match self {
            Self::Qcode(name) => key_by_name(name),
            Self::Number(n) => {
                keys::by_number(*n).ok_or_else(|| format!("there is no key {n}").into())
            }
        }
    }
}

/// A key by QEMU's name.
pub fn key_by_name(name: &str) -> Result<u16, Refusal> {
    keys::by_qcode(name).ok_or_else(|| {
        let hint = hint(name, keys::qcodes());
        format!("Parameter 'key' does not accept value '{name}'{hint}").into()
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SendKey {
    keys: Vec<Key>,
    hold_time: Option<u64>,
}

pub fn send_key(c: &Context, a: SendKey) -> Answer {
    let keys = a.keys.iter().map(Key::code).collect::<Result<_, _>>()?;
    c.input.press(keys, a.hold_time)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendEvent {
    /// Which screen's; there is one.
    #[allow(dead_code, reason = "checked, and then it makes no difference")]
    device: Option<String>,
    #[allow(dead_code, reason = "checked, and then it makes no difference")]
    head: Option<u32>,
    events: Vec<InputEvent>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    tag = "type",
    content = "data",
    rename_all = "lowercase"
)]
enum InputEvent {
    Key {
        key: Key,
        down: bool,
    },
    Btn {
        button: Button,
        down: bool,
    },
    Rel {
        axis: Axis,
        value: i64,
    },
    Abs {
        #[allow(dead_code, reason = "checked; nothing takes it yet")]
        axis: Axis,
        value: i64,
    },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Button {
    Left,
    Right,
    Middle,
    Side,
    Extra,
    WheelUp,
    WheelDown,
    WheelLeft,
    WheelRight,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Axis {
    X,
    Y,
}

/// What one command does to the mouse: the last word on each button, movements in sum.
#[derive(Default)]
struct Motion {
    dx: i32,
    dy: i32,
    dz: i32,
    any: bool,
}

pub fn send_event(c: &Context, a: SendEvent) -> Answer {
    let mut keys = Vec::new();
    let mut motion = Motion::default();
    let mut buttons = c.input.buttons();
    let mut pressed = *buttons;
    for event in &a.events {
        match event {
            InputEvent::Key { key, down } => {
                keys.push((key.code()?, *down));
                continue;
            }
            InputEvent::Abs { value, .. } if !(0..=ABSOLUTE).contains(value) => {
                return Err(format!("value {value} is not from 0 to {ABSOLUTE}").into());
            }
            InputEvent::Abs { .. } => {
                return Err(
                    "Input handler not found for event type abs: the guest has no tablet".into(),
                );
            }
            InputEvent::Rel { axis, value } => {
                let value = (*value).clamp(-i64::from(FAR), i64::from(FAR)) as i32;
                let (sum, by) = match axis {
                    Axis::X => (&mut motion.dx, value),
                    // A screen's coordinates go down, a mouse's up.
                    Axis::Y => (&mut motion.dy, -value),
                };
                *sum = (*sum + by).clamp(-FAR, FAR);
            }
            InputEvent::Btn { button, down } => {
                let bit = match button {
                    Button::Left => 1,
                    Button::Right => 2,
                    Button::Middle => 4,
                    Button::Side => 8,
                    Button::Extra => 16,
                    Button::WheelUp => {
                        motion.dz = (motion.dz + i32::from(*down)).min(FAR);
                        0
                    }
                    Button::WheelDown => {
                        motion.dz = (motion.dz - i32::from(*down)).max(-FAR);
                        0
                    }
                    // The PS/2 mouse has no such wheel.
                    Button::WheelLeft | Button::WheelRight => 0,
                };
                pressed = pressed & !bit | if *down { bit } else { 0 };
            }
        }
        motion.any |= !matches!(event, InputEvent::Key { .. });
    }
    send(c, keys, motion, pressed)?;
    *buttons = pressed;
    Ok(json!({}))
}

/// Moves the mouse; a screen's coordinates go down.
pub fn move_mouse(c: &Context, dx: i32, dy: i32, dz: i32) -> Answer {
    let motion = Motion {
        dx: dx.clamp(-FAR, FAR),
        dy: -dy.clamp(-FAR, FAR),
        dz: dz.clamp(-FAR, FAR),
        any: true,
    };
    let buttons = *c.input.buttons();
    send(c, Vec::new(), motion, buttons)
}

/// Lets the mouse's buttons be these (bit 0 left, 1 right, 2 middle).
pub fn press_buttons(c: &Context, pressed: u8) -> Answer {
    let mut buttons = c.input.buttons();
    let any = true;
    let motion = Motion {
        any,
        ..Motion::default()
    };
    send(c, Vec::new(), motion, pressed)?;
    *buttons = pressed;
    Ok(json!({}))
}

fn send(c: &Context, keys: Vec<(u16, bool)>, motion: Motion, pressed: u8) -> Answer {
    c.call(move |vm| {
        let now = vm.runner.cpu.now();
        vm.with_pc(|pc| {
            for (key, down) in keys {
                pc.key(key, down, now);
            }
            if motion.any {
                pc.mouse(motion.dx, motion.dy, motion.dz, pressed, now);
            }
        });
    })?;
    Ok(json!({}))
}

pub fn mice() -> Value {
    json!([{ "name": "QEMU PS/2 Mouse", "index": 0, "current": true, "absolute": false }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_by_number_and_name() {
        let code = |v: Value| serde_json::from_value::<Key>(v).unwrap().code();
        assert_eq!(code(json!({"type": "qcode", "data": "delete"})), Ok(0xe053));
        assert_eq!(code(json!({"type": "number", "data": 0xd3})), Ok(0xe053));
        assert_eq!(code(json!({"type": "number", "data": 0x1e})), Ok(0x1e));
        for bad in [
            json!({"type": "number", "data": 0}),
            json!({"type": "number", "data": 256}),
        ] {
            assert!(code(bad).is_err());
        }
        let wrong = code(json!({"type": "qcode", "data": "bakspace"})).unwrap_err();
        assert!(
            wrong
                .desc()
                .ends_with("'bakspace': did you mean backspace?")
        );
    }
}
