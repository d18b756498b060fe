//! Networks: `info network`, and the cable of a NIC plugged in and out (`set_link`).

use super::Context;
use super::human::{Text, Words};
use super::qmp::{Answer, Refusal};
use crate::netdev::Cable;
use crate::timeline::Input;
use emu_core::nearest::hint;
use serde::Deserialize;
use serde_json::json;
use std::fmt::Write;

fn cables(c: &Context) -> Result<Vec<Cable>, Refusal> {
    c.call(|vm| vm.networks.cables().to_vec())
}

/// `info network`: each NIC with its network, in QEMU's words.
pub fn info(c: &Context) -> Text {
    let mut out = String::new();
    for (n, cable) in cables(c)?.iter().enumerate() {
        let down = if cable.link.is_up() { "" } else { ",link=down" };
        let mut indent = "";
        if let Some((model, mac)) = cable.nic {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let _ = writeln!(
                out,
                "{model}.{n}: index=0,type=nic,model={model},macaddr={mac}{down}"
            );
            indent = " \\ ";
        }
        let id = cable.link.id();
        let [received, sent] = cable.link.counters();
        let _ = writeln!(out, "{indent}{id}: index=0,{}{down}", cable.backend);
        for (what, count) in [("received", received), ("sent", sent)] {
            let _ = writeln!(
                out,
                "     guest {what} {} frames, {} bytes, {} dropped",
                count.frames, count.bytes, count.dropped
            );
        }
    }
    Ok(out)
}

/// What `set_link` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLink {
    /// A network's id, or a NIC as `info network` calls it.
    name: String,
    up: bool,
}

pub fn set_link(c: &Context, a: SetLink) -> Answer {
    let cables = cables(c)?;
    let names = |n: usize, cable: &Cable| {
        let nic = cable.nic.map(|(model, _)| format!("{model}.{n}"));
        [Some(cable.link.id().to_string()), nic]
    };
    for (n, cable) in cables.iter().enumerate() {
        if names(n, cable).contains(&Some(a.name.clone())) {
            let input = Input::Link { net: n, up: a.up };
            c.call(move |vm| vm.feed(input))?;
            return Ok(json!({}));
        }
    }
    let hint = hint(&a.name, cables.iter().map(|cable| cable.link.id()));
    Err(Refusal::no_device(format!(
        "Device '{}' not found{hint}",
        a.name
    )))
}

/// `set_link name on|off`.
pub fn set_link_by_hand(c: &Context, w: &Words) -> Text {
    w.most(2)?;
    let up = match w.need(1, "on or off")? {
        "on" => true,
        "off" => false,
        other => return Err(format!("'{other}' is neither on nor off").into()),
    };
    let name = w.need(0, "the network")?.into();
    set_link(c, SetLink { name, up }).map(|_| String::new())
}
