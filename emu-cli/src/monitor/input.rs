//! Keys and pointers: `send-key` and `input-send-event`.
//!
//! Typed keys go down together and up again after their hold time, one combination after the other, by a thread of their own: a guest
//! sees them in order, and the client has its answer at once. While the machine is stopped, they wait.

use super::Context;
use super::qmp::{Answer, Refusal};
use crate::commands::Commands;
use crate::keys;
use crate::state::RunState;
use crate::timeline::Input as Event;
use emu_core::nearest::hint;
use emu_devices::input::TABLET_MAX;
use serde::Deserialize;
use serde_json::json;
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

struct Combination {
    keys: Vec<u16>,
    hold: Duration,
}

/// The way from clients to keyboard and mouse.
pub struct Input {
    typist: Mutex<Option<SyncSender<Combination>>>,
    commands: Arc<Commands>,
    pointer: Mutex<Pointer>,
}

/// What the pointer was told last: the buttons that are down (bit 0 left, 1 right, 2 middle), and a tablet's place.
#[derive(Clone, Copy, Default)]
struct Pointer {
    buttons: u8,
    at: (u32, u32),
}

impl Input {
    pub fn new(commands: Arc<Commands>) -> Self {
        Self {
            typist: Mutex::default(),
            commands,
            pointer: Mutex::default(),
        }
    }

    fn pointer(&self) -> MutexGuard<'_, Pointer> {
        self.pointer.lock().unwrap_or_else(|e| e.into_inner())
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
    Key { key: Key, down: bool },
    Btn { button: Button, down: bool },
    Rel { axis: Axis, value: i64 },
    Abs { axis: Axis, value: i64 },
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

/// What one command does to the pointer: the last word on its place, movements in sum.
#[derive(Default)]
struct Motion {
    dx: i32,
    dy: i32,
    dz: i32,
    /// It is placed, not moved.
    placed: bool,
    any: bool,
}

pub fn send_event(c: &Context, a: SendEvent) -> Answer {
    let mut keys = Vec::new();
    let mut motion = Motion::default();
    let mut pointer = c.input.pointer();
    let mut next = *pointer;
    for event in &a.events {
        match event {
            InputEvent::Key { key, down } => {
                keys.push((key.code()?, *down));
                continue;
            }
            InputEvent::Abs { axis, value } => {
                let place = u32::try_from(*value).ok().filter(|v| *v <= TABLET_MAX);
                let Some(place) = place else {
                    return Err(format!("value {value} is not from 0 to {TABLET_MAX}").into());
                };
                match axis {
                    Axis::X => next.at.0 = place,
                    Axis::Y => next.at.1 = place,
                }
                motion.placed = true;
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
                    // No mouse here has such a wheel.
                    Button::WheelLeft | Button::WheelRight => 0,
                };
                next.buttons = next.buttons & !bit | if *down { bit } else { 0 };
            }
        }
        motion.any = true;
    }
    send(c, keys, motion, next)?;
    *pointer = next;
    Ok(json!({}))
}

/// Moves the mouse; a screen's coordinates go down.
pub fn move_mouse(c: &Context, dx: i32, dy: i32, dz: i32) -> Answer {
    let motion = Motion {
        dx: dx.clamp(-FAR, FAR),
        dy: -dy.clamp(-FAR, FAR),
        dz: dz.clamp(-FAR, FAR),
        any: true,
        ..Motion::default()
    };
    let pointer = *c.input.pointer();
    send(c, Vec::new(), motion, pointer)
}

/// Lets the mouse's buttons be these (bit 0 left, 1 right, 2 middle).
pub fn press_buttons(c: &Context, pressed: u8) -> Answer {
    let mut pointer = c.input.pointer();
    let next = Pointer {
        buttons: pressed,
        ..*pointer
    };
    let motion = Motion {
        any: true,
        ..Motion::default()
    };
    send(c, Vec::new(), motion, next)?;
    *pointer = next;
    Ok(json!({}))
}

/// As in QEMU, a tablet takes buttons and wheel too, and movements are for the mouse.
fn send(c: &Context, keys: Vec<(u16, bool)>, motion: Motion, to: Pointer) -> Answer {
    let done = c.call(move |vm| {
        let tablet = vm.with_pc(|pc| pc.has_tablet()).unwrap_or(false);
        if motion.placed && !tablet {
            return Err(
                "Input handler not found for event type abs: the guest has no tablet".into(),
            );
        }
        for (code, down) in keys {
            vm.feed(Event::Key { code, down });
        }
        let Motion { dx, dy, dz, .. } = motion;
        let moved = (dx, dy) != (0, 0);
        let (x, y) = to.at;
        let buttons = to.buttons;
        if tablet && (motion.placed || motion.any && !moved) {
            vm.feed(Event::Pointer { x, y, dz, buttons });
        }
        let mouse = |dz, buttons| Event::Mouse {
            dx,
            dy,
            dz,
            buttons,
        };
        match tablet {
            true if moved => vm.feed(mouse(0, 0)),
            false if motion.any => vm.feed(mouse(dz, buttons)),
            _ => {}
        }
        Ok(())
    })?;
    done.map(|()| json!({}))
}

/// The pointers' names and whether they are absolute; and which of them is moved.
fn pointers(c: &Context) -> Result<(Vec<(&'static str, bool)>, usize), Refusal> {
    let list = c.call(|vm| vm.with_pc(|pc| pc.pointers()))?;
    Ok(list.unwrap_or_default())
}

pub fn query_mice(c: &Context) -> Answer {
    let (list, current) = pointers(c)?;
    let list = list.into_iter().enumerate().map(|(n, (name, absolute))| {
        json!({ "name": name, "index": n, "current": n == current, "absolute": absolute })
    });
    Ok(list.collect())
}

/// `info mice`.
pub fn mice(c: &Context) -> Result<String, Refusal> {
    let (list, current) = pointers(c)?;
    let lines = list.into_iter().enumerate().map(|(n, (name, absolute))| {
        let mark = if n == current { '*' } else { ' ' };
        let kind = if absolute { " (absolute)" } else { "" };
        format!("{mark} Mouse #{n}: {name}{kind}\n")
    });
    Ok(lines.collect())
}

/// `mouse_set`: the newest that a driver uses is moved, and no other can be.
pub fn choose_mouse(c: &Context, n: u64) -> Result<(), Refusal> {
    let (list, current) = pointers(c)?;
    match usize::try_from(n) {
        Ok(n) if n == current => Ok(()),
        Ok(n) if n < list.len() => {
            Err(format!("Mouse #{current} is moved: the guest uses it").into())
        }
        _ => Err(format!("Mouse at index '{n}' not found").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

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
