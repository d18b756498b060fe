//! The QMP commands by name; each row checks its arguments and calls the function that does it.

use super::qmp::{Answer, Refusal, version};
use super::{Context, block, bus, events, human, input, machine, network, screen};
use emu_core::nearest::hint;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

type Run = fn(&Context, Value) -> Answer;

/// No arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct None {}

/// All commands.
const TABLE: &[(&str, Run)] = &[
    ("balloon", |c, a| with(a, |a| machine::balloon(c, a))),
    ("blockdev-change-medium", |c, a| {
        with(a, |a| block::change_medium(c, a))
    }),
    ("blockdev-close-tray", |c, a| {
        with(a, |a| block::close_tray(c, a))
    }),
    ("blockdev-open-tray", |c, a| {
        with(a, |a| block::open_tray(c, a))
    }),
    ("cont", |c, a| with(a, |_: None| machine::cont(c))),
    ("eject", |c, a| with(a, |a| block::eject(c, a))),
    ("human-monitor-command", |c, a| {
        with(a, |a| human::from_qmp(c, a))
    }),
    ("inject-nmi", |c, a| with(a, |_: None| machine::nmi(c))),
    ("input-send-event", |c, a| {
        with(a, |a| input::send_event(c, a))
    }),
    ("memsave", |c, a| with(a, |a| machine::memsave(c, a))),
    ("pmemsave", |c, a| with(a, |a| machine::pmemsave(c, a))),
    ("query-balloon", |c, a| {
        with(a, |_: None| machine::query_balloon(c))
    }),
    ("query-block", |c, a| with(a, |_: None| block::query(c))),
    ("query-blockstats", |c, a| {
        with(a, |_: None| block::stats(c))
    }),
    ("query-chardev", |c, a| {
        with(a, |_: None| machine::chardevs(c))
    }),
    ("query-commands", |_, a| {
        with(a, |_: None| Ok(names(TABLE.iter().map(|r| r.0))))
    }),
    ("query-cpus-fast", |_, a| with(a, |_: None| machine::cpus())),
    ("query-events", |_, a| {
        with(a, |_: None| Ok(names(events::NAMES)))
    }),
    ("query-kvm", |_, a| {
        with(a, |_: None| {
            Ok(json!({ "enabled": false, "present": false }))
        })
    }),
    ("query-memory-size-summary", |c, a| {
        with(a, |_: None| machine::memory(c))
    }),
    ("query-mice", |c, a| with(a, |_: None| input::query_mice(c))),
    ("query-name", |_, a| with(a, |_: None| Ok(json!({})))),
    ("query-pci", |c, a| with(a, |_: None| bus::query(c))),
    ("query-status", |c, a| with(a, |_: None| machine::status(c))),
    ("query-target", |_, a| {
        with(a, |_: None| Ok(json!({ "arch": "x86_64" })))
    }),
    ("query-version", |_, a| with(a, |_: None| Ok(version()))),
    ("quit", |c, a| with(a, |_: None| machine::quit(c))),
    ("screendump", |c, a| with(a, |a| screen::screendump(c, a))),
    ("send-key", |c, a| with(a, |a| input::send_key(c, a))),
    ("set_link", |c, a| with(a, |a| network::set_link(c, a))),
    ("stop", |c, a| with(a, |_: None| machine::stop(c))),
    ("system_powerdown", |c, a| {
        with(a, |_: None| machine::powerdown(c))
    }),
    ("system_reset", |c, a| with(a, |_: None| machine::reset(c))),
    ("x-query-screen-text", |c, a| {
        with(a, |_: None| screen::text(c))
    }),
];

/// A list of objects with names.
fn names<'a>(list: impl IntoIterator<Item = &'a str>) -> Value {
    list.into_iter()
        .map(|name| json!({ "name": name }))
        .collect()
}

/// Reads the arguments.
fn with<A: DeserializeOwned>(arguments: Value, f: impl FnOnce(A) -> Answer) -> Answer {
    f(serde_json::from_value(arguments).map_err(|e| wrong(&e.to_string()))?)
}

/// Serde's words in QEMU's.
fn wrong(text: &str) -> Refusal {
    let name = text.split('`').nth(1).unwrap_or_default();
    if text.starts_with("missing field") {
        format!("Parameter '{name}' is missing").into()
    } else if text.starts_with("unknown field") {
        format!("Parameter '{name}' is unexpected").into()
    } else {
        format!("Invalid parameter: {text}").into()
    }
}

/// `qmp_capabilities`: there are none to enable.
pub fn capabilities(arguments: Value) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Capabilities {
        #[serde(default)]
        enable: Vec<String>,
    }
    with(arguments, |a: Capabilities| match a.enable.first() {
        Some(name) => Err(format!("Capability '{name}' is not available").into()),
        None => Ok(json!({})),
    })
}

/// Runs a command.
pub fn run(context: &Context, name: &str, arguments: Value) -> Answer {
    match TABLE.iter().find(|row| row.0 == name) {
        Some((_, run)) => run(context, arguments),
        None => {
            let hint = hint(name, TABLE.iter().map(|row| row.0));
            Err(Refusal::unknown(format!(
                "The command {name} has not been found{hint}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_command_refuses_what_it_does_not_know() {
        assert!(TABLE.is_sorted_by_key(|row| row.0));
        let context = Context::unused();
        for (name, _) in TABLE {
            let refused = run(&context, name, json!({ "xyzzy": 1 })).unwrap_err();
            let desc = refused.desc();
            assert!(
                desc == "Parameter 'xyzzy' is unexpected" || desc.ends_with("is missing"),
                "{name}: {desc}"
            );
        }
    }
}
