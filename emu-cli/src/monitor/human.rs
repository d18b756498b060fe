//! The human monitor: a line is a command, as in QEMU's.
//!
//! [`run`] is asked by [`terminal`](super::terminal) (the console's `Ctrl-A c`, `--monitor`) and by QMP's
//! `human-monitor-command`. What QMP can do too is done by the same functions.

use super::Context;
use super::expr;
use super::qmp::{Answer, Refusal};
use super::{block, examine, info, input, machine, network, screen};
use emu_core::nearest::hint;
use serde::Deserialize;
use serde_json::Value;

/// What a command prints.
pub type Text = Result<String, Refusal>;

/// A command: names, arguments, what it does. Words are what stands behind the name.
pub struct Row {
    names: &'static [&'static str],
    args: &'static str,
    help: &'static str,
    run: fn(&Context, &Words) -> Text,
}

/// The line of a command, behind its name.
pub struct Words<'a> {
    /// As it was typed.
    pub text: &'a str,
    pub list: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub fn of(text: &'a str) -> Self {
        let text = text.trim();
        let list = text.split_whitespace().collect();
        Self { text, list }
    }

    /// Word `n`, which must be there.
    pub fn need(&self, n: usize, what: &str) -> Result<&'a str, Refusal> {
        let word = self.list.get(n).copied();
        word.ok_or_else(|| format!("{what} is missing").into())
    }

    /// There are no more than `n`.
    pub fn most(&self, n: usize) -> Result<(), Refusal> {
        match self.list.get(n) {
            None => Ok(()),
            Some(word) => Err(format!("unexpected \"{word}\"").into()),
        }
    }

    /// Word `n` as a number.
    pub fn number(&self, c: &Context, n: usize, what: &str) -> Result<u64, Refusal> {
        let word = self.need(n, what)?;
        let registers = examine::Registers::of(c)?;
        Ok(expr::value(word, &|name| registers.get(name))?)
    }
}

fn balloon(c: &Context, w: &Words) -> Text {
    w.most(1)?;
    let size = w.need(0, "the size in MB")?;
    let size: u64 = size
        .parse()
        .map_err(|_| format!("\"{size}\" is no size in MB"))?;
    let value = size.saturating_mul(1 << 20);
    quiet(machine::balloon(c, machine::Balloon { value }))
}

/// What QMP answers, for one who reads: nothing if it worked.
fn quiet(answer: Answer) -> Text {
    answer.map(|_| String::new())
}

const fn row(
    names: &'static [&'static str],
    args: &'static str,
    help: &'static str,
    run: fn(&Context, &Words) -> Text,
) -> Row {
    Row {
        names,
        args,
        help,
        run,
    }
}

/// All commands.
pub const TABLE: &[Row] = &[
    row(
        &["balloon"],
        "target",
        "request VM to change its memory allocation (in MB)",
        balloon,
    ),
    row(
        &["change"],
        "device filename [format]",
        "change a removable medium",
        block::change_by_hand,
    ),
    row(&["cont", "c"], "", "resume emulation", |c, w| {
        w.most(0)?;
        quiet(machine::cont(c))
    }),
    row(
        &["eject"],
        "[-f] device",
        "eject a removable medium (use -f to force it)",
        block::eject_by_hand,
    ),
    row(
        &["gva2gpa"],
        "addr",
        "the guest physical address of a guest virtual address",
        examine::gva2gpa,
    ),
    row(&["help", "?"], "[cmd]", "show the help", help),
    row(&["i"], "/fmt addr", "I/O port read", examine::port_in),
    row(
        &["info"],
        "[subcommand]",
        "show various information about the system state",
        info::run,
    ),
    row(
        &["memsave"],
        "addr size file",
        "save to disk virtual memory dump",
        memsave,
    ),
    row(
        &["mouse_button"],
        "state",
        "change mouse button state (1=L, 2=M, 4=R)",
        mouse_button,
    ),
    row(
        &["mouse_move"],
        "dx dy [dz]",
        "send mouse move events",
        mouse_move,
    ),
    row(
        &["mouse_set"],
        "index",
        "set which mouse device receives events",
        mouse_set,
    ),
    row(&["nmi"], "", "inject an NMI", |c, w| {
        w.most(0)?;
        quiet(machine::nmi(c))
    }),
    row(
        &["o"],
        "/fmt addr value",
        "I/O port write",
        examine::port_out,
    ),
    row(
        &["pmemsave"],
        "addr size file",
        "save to disk physical memory dump",
        pmemsave,
    ),
    row(
        &["print", "p"],
        "/fmt expr",
        "print expression value (use $reg for CPU register access)",
        examine::print,
    ),
    row(&["quit", "q"], "", "quit the emulator", |c, w| {
        w.most(0)?;
        quiet(machine::quit(c))
    }),
    row(
        &["screendump"],
        "filename [-f format]",
        "save the screen to a PPM or PNG image",
        screen::by_hand,
    ),
    row(
        &["sendkey"],
        "keys [hold_ms]",
        "send keys to the VM (e.g. 'sendkey ctrl-alt-f1', default hold time=100 ms)",
        sendkey,
    ),
    row(
        &["set_link"],
        "name on|off",
        "change the link status of a network adapter",
        network::set_link_by_hand,
    ),
    row(&["stop", "s"], "", "stop emulation", |c, w| {
        w.most(0)?;
        quiet(machine::stop(c))
    }),
    row(
        &["sum"],
        "addr size",
        "compute the checksum of a memory region",
        examine::sum,
    ),
    row(
        &["system_powerdown"],
        "",
        "send system power down event",
        |c, w| {
            w.most(0)?;
            quiet(machine::powerdown(c))
        },
    ),
    row(&["system_reset"], "", "reset the system", |c, w| {
        w.most(0)?;
        quiet(machine::reset(c))
    }),
    row(
        &["x"],
        "/fmt addr",
        "virtual memory dump starting at 'addr'",
        |c, w| examine::dump(c, w, false),
    ),
    row(
        &["xp"],
        "/fmt addr",
        "physical memory dump starting at 'addr'",
        |c, w| examine::dump(c, w, true),
    ),
];

/// Does what a line says. The text has its line ends.
pub fn run(c: &Context, line: &str) -> String {
    let line = line.trim();
    // A format may stand right behind the name: x/4i $pc.
    let end = line.find(|ch: char| ch.is_whitespace() || ch == '/');
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    if name.is_empty() {
        return String::new();
    }
    let Some(row) = TABLE.iter().find(|r| r.names.contains(&name)) else {
        let names = TABLE.iter().flat_map(|r| r.names).copied();
        return format!("unknown command: '{name}'{}\n", hint(name, names));
    };
    match (row.run)(c, &Words::of(rest)) {
        Ok(text) => text,
        Err(e) => format!("Error: {}\n", e.desc()),
    }
}

fn describe(row: &Row) -> String {
    let args = if row.args.is_empty() { "" } else { " " };
    format!(
        "{}{args}{} -- {}\n",
        row.names.join("|"),
        row.args,
        row.help
    )
}

fn help(_: &Context, w: &Words) -> Text {
    match w.list.first() {
        None => Ok(TABLE.iter().map(describe).collect()),
        Some(&"info") => Ok(info::list()),
        Some(name) => match TABLE.iter().find(|r| r.names.contains(name)) {
            Some(row) => Ok(describe(row)),
            None => Err(format!("there is no command '{name}'").into()),
        },
    }
}

fn sendkey(c: &Context, w: &Words) -> Text {
    w.most(2)?;
    let hold = match w.list.get(1) {
        Some(ms) => Some(
            ms.parse()
                .map_err(|_| format!("\"{ms}\" is no time in ms"))?,
        ),
        None => None,
    };
    let names = w.need(0, "the key")?;
    // "-" alone, or behind another, is the minus key's sign; QEMU takes "minus" only.
    let keys = names.split('-').map(input::key_by_name);
    quiet(c.input.press(keys.collect::<Result<_, _>>()?, hold))
}

fn signed(w: &Words, n: usize) -> Result<i32, Refusal> {
    let Some(word) = w.list.get(n) else {
        return Ok(0);
    };
    let number: Result<i32, _> = word.parse();
    number.map_err(|_| format!("\"{word}\" is no number of steps").into())
}

fn mouse_move(c: &Context, w: &Words) -> Text {
    w.most(3)?;
    w.need(1, "dx or dy")?;
    quiet(input::move_mouse(
        c,
        signed(w, 0)?,
        signed(w, 1)?,
        signed(w, 2)?,
    ))
}

fn mouse_button(c: &Context, w: &Words) -> Text {
    w.most(1)?;
    let state = w.number(c, 0, "state")?;
    // Left, middle, right here; the PS/2 mouse has left, right, middle.
    let buttons = (state & 1 | (state & 2) << 1 | (state & 4) >> 1) as u8;
    quiet(input::press_buttons(c, buttons))
}

fn mouse_set(c: &Context, w: &Words) -> Text {
    w.most(1)?;
    let index = w.number(c, 0, "index")?;
    input::choose_mouse(c, index).map(|()| String::new())
}

fn saved(c: &Context, w: &Words, f: fn(&Context, machine::Save) -> Answer) -> Text {
    w.most(3)?;
    let file = w.need(2, "the file")?;
    let (from, size) = (w.number(c, 0, "addr")?, w.number(c, 1, "size")?);
    quiet(f(c, machine::Save::new(from, size, file)))
}

fn memsave(c: &Context, w: &Words) -> Text {
    saved(c, w, machine::memory_of_cpu)
}

fn pmemsave(c: &Context, w: &Words) -> Text {
    saved(c, w, machine::pmemsave)
}

/// QMP's way in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HumanMonitorCommand {
    command_line: String,
    #[serde(default)]
    cpu_index: u64,
}

pub fn from_qmp(c: &Context, a: HumanMonitorCommand) -> Answer {
    match a.cpu_index {
        0 => Ok(Value::String(run(c, &a.command_line).replace('\n', "\r\n"))),
        n => Err(format!("Parameter 'cpu-index' expects a CPU number: there is no CPU {n}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_can_be_asked_for_with_anything() {
        let c = Context::unused();
        let names = || TABLE.iter().flat_map(|r| r.names);
        assert!(TABLE.is_sorted_by_key(|r| r.names[0]));
        let mut seen = std::collections::HashSet::new();
        assert!(names().all(|n| seen.insert(n)), "a name is there twice");
        for name in names() {
            for rest in [
                "",
                " ",
                " é",
                "/",
                "/99999999999999999999x 0",
                " -",
                " a b c d e",
                " ((((",
                "/i 'x",
                " $",
            ] {
                run(&c, &format!("{name}{rest}"));
            }
            assert!(run(&c, &format!("help {name}")).contains(name), "{name}");
        }
        assert_eq!(
            run(&c, "system_rest"),
            "unknown command: 'system_rest': did you mean system_reset?\n"
        );
        assert_eq!(run(&c, "  "), "");
        assert!(run(&c, "help").contains("\nxp /fmt addr -- "));
    }
}
