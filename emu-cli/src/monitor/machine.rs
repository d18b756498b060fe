//! Commands for the machine as a whole: stop and go, reset, power, memory to files.

use super::Context;
use super::qmp::{Answer, Refusal};
use crate::state::RunState;
use crate::timeline::Input;
use crate::vm::Vm;
use emu_core::addr::PhysAddr;
use serde::Deserialize;
use serde_json::json;
use std::fs::File;
use std::io::Write;

/// Memory is written to files in pieces of this size; the guest runs on between them.
const PIECE: u64 = 1 << 20;

impl Context {
    /// Does something on the machine's thread.
    pub fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Vm) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.commands
            .call(f)
            .ok_or_else(|| "the run has ended".into())
    }

    /// The same for what has no answer.
    fn act(&self, f: impl FnOnce(&mut Vm) + Send + 'static) -> Answer {
        self.call(f)?;
        Ok(json!({}))
    }
}

pub fn status(c: &Context) -> Answer {
    let state = c.call(|vm| vm.state())?;
    let running = state == RunState::Running;
    Ok(json!({ "running": running, "singlestep": false, "status": state.name() }))
}

pub fn stop(c: &Context) -> Answer {
    c.act(|vm| vm.stop(RunState::Paused))
}

pub fn cont(c: &Context) -> Answer {
    match c.call(Vm::cont)? {
        true => Ok(json!({})),
        false => Err("Resetting the Virtual Machine is required".into()),
    }
}

pub fn quit(c: &Context) -> Answer {
    c.commands.quit();
    Ok(json!({}))
}

pub fn reset(c: &Context) -> Answer {
    c.act(|vm| vm.feed(Input::Reset))
}

pub fn powerdown(c: &Context) -> Answer {
    c.act(|vm| {
        vm.feed(Input::PowerButton);
        vm.events.emit("POWERDOWN", None);
    })
}

pub fn nmi(c: &Context) -> Answer {
    c.act(|vm| vm.feed(Input::Nmi))
}

/// `balloon`: how much memory the guest is to have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    pub value: u64,
}

const NO_BALLOON: &str = "No balloon device has been activated";

pub fn balloon(c: &Context, a: Balloon) -> Answer {
    let done = c.call(move |vm| {
        let target = vm.balloon.clone()?;
        let size = vm.runner.machine().ram.size();
        let pages = size.saturating_sub(a.value) >> 12;
        target.set(u32::try_from(pages).unwrap_or(u32::MAX));
        let now = vm.runner.cpu.now();
        vm.with_pc(|pc| pc.input_arrived(now))
    })?;
    match done {
        Some(()) => Ok(json!({})),
        None => Err(NO_BALLOON.into()),
    }
}

pub fn query_balloon(c: &Context) -> Answer {
    let actual = c.call(|vm| {
        let given_up = (vm.balloon.as_ref()?.actual() as u64) << 12;
        Some(vm.runner.machine().ram.size().saturating_sub(given_up))
    })?;
    match actual {
        Some(actual) => Ok(json!({ "actual": actual })),
        None => Err(NO_BALLOON.into()),
    }
}

pub fn memory(c: &Context) -> Answer {
    Ok(json!({ "base-memory": c.facts.memory, "plugged-memory": 0 }))
}

pub fn cpus() -> Answer {
    // The vCPU runs on the process's first thread, whose id is the process's.
    Ok(json!([{
        "cpu-index": 0,
        "qom-path": "/machine/unattached/device[0]",
        "thread-id": std::process::id(),
        "target": "x86_64",
        "props": { "core-id": 0, "thread-id": 0, "socket-id": 0 },
    }]))
}

pub fn chardevs(c: &Context) -> Answer {
    let list = c.facts.chardevs.iter();
    Ok(list
        .map(|(label, file)| json!({ "label": label, "filename": file, "frontend-open": true }))
        .collect())
}

/// Where memory goes to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Save {
    val: u64,
    size: u64,
    filename: String,
}

impl Save {
    pub fn new(val: u64, size: u64, filename: &str) -> Self {
        Self {
            val,
            size,
            filename: filename.into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SaveLinear {
    val: u64,
    size: u64,
    filename: String,
    #[serde(default)]
    cpu_index: u64,
}

pub fn pmemsave(c: &Context, a: Save) -> Answer {
    save(c, a, |vm, at, buf| {
        vm.runner.machine().ram.read(PhysAddr(at), buf)
    })
}

pub fn memsave(c: &Context, a: SaveLinear) -> Answer {
    if a.cpu_index != 0 {
        return Err(format!(
            "Invalid parameter 'cpu-index': there is no CPU {}",
            a.cpu_index
        )
        .into());
    }
    memory_of_cpu(c, Save::new(a.val, a.size, &a.filename))
}

/// Linear addresses are those of the vCPU as it is now.
pub fn memory_of_cpu(c: &Context, a: Save) -> Answer {
    save(c, a, |vm, at, buf| vm.runner.cpu.peek(at, buf))
}

/// Writes memory to a file; `read` gets the bytes from an address, within a page.
fn save(c: &Context, a: Save, read: fn(&Vm, u64, &mut [u8]) -> bool) -> Answer {
    let failed =
        |e: std::io::Error| Refusal::from(format!("Could not write '{}': {e}", a.filename));
    let mut file = File::create(&a.filename).map_err(failed)?;
    let mut at = 0;
    while at < a.size {
        let length = PIECE.min(a.size - at);
        let base = a.val.wrapping_add(at);
        let piece = c.call(move |vm| piece(vm, base, length, read))?;
        let bytes =
            piece.map_err(|bad| format!("Invalid addr {bad:#018x}/size {} specified", a.size))?;
        file.write_all(&bytes).map_err(failed)?;
        at += length;
    }
    Ok(json!({}))
}

fn piece(
    vm: &Vm,
    base: u64,
    length: u64,
    read: fn(&Vm, u64, &mut [u8]) -> bool,
) -> Result<Vec<u8>, u64> {
    let mut bytes = vec![0; length as usize];
    let mut done = 0;
    while done < bytes.len() {
        let at = base.wrapping_add(done as u64);
        let n = (4096 - (at & 0xfff) as usize).min(bytes.len() - done);
        if !read(vm, at, &mut bytes[done..done + n]) {
            return Err(at);
        }
        done += n;
    }
    Ok(bytes)
}
