//! `--stats`: what a run did, as one JSON object or as text.

use crate::args::Stats;
use crate::console;
use crate::error::Error;
use crate::status::Status;
use crate::vm::Vm;
use emu_core::runner::Runner;
use emu_core::state::CpuState;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A hash of the vCPU and of RAM.
pub fn state_hash(runner: &Runner) -> u64 {
    CpuState::of(&runner.cpu).hash() ^ runner.machine().ram.hash().rotate_left(1)
}

/// The most memory that this process has had in use at a time, guest RAM included; where the host tells.
fn host_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// Everything there is to tell. `start` is what passed before the first guest instruction, `wall` what passed since.
fn collect(vm: &Vm, status: Status, start: Duration, wall: Duration) -> Map<String, Value> {
    let cpu = &vm.runner.cpu;
    let guest = cpu.now();
    let state = state_hash(&vm.runner);
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    put("retired", cpu.retired.into());
    put("start_ns", (start.as_nanos() as u64).into());
    put("wall_ns", (wall.as_nanos() as u64).into());
    put("guest_ns", guest.into());
    put(
        "host_peak_bytes",
        host_peak().map_or(Value::Null, Value::from),
    );
    put("engine", vm.runner.engine.name().into());
    put("exit", status.name().into());
    put("exit_status", status.code().into());
    put("state_hash", format!("{state:016x}").into());
    put("slices", vm.runner.slices.into());
    put("idle_skips", vm.runner.idle_skips.into());
    for (name, n) in vm.runner.engine.stats() {
        put(name, n.into());
    }
    for (name, rows) in vm.runner.engine.tables() {
        let rows = rows.into_iter().map(|(k, n)| (k, n.into()));
        put(name, Value::Object(rows.collect()));
    }
    put(
        "cpu",
        serde_json::to_value(&cpu.stats).unwrap_or(Value::Null),
    );
    let board = vm.with_pc(|pc| serde_json::to_value(pc.counters()).unwrap_or(Value::Null));
    let audio = vm.audio.counters();
    put("audio_frames", audio.played.into());
    put("audio_frames_dropped", audio.dropped.into());
    put("board", board.unwrap_or(Value::Null));
    out
}

/// Writes the counters where they were asked for.
pub fn write(
    to: &Stats,
    vm: &Vm,
    status: Status,
    start: Duration,
    wall: Duration,
) -> Result<(), Error> {
    let all = collect(vm, status, start, wall);
    match to {
        Stats::Text => {
            for (key, value) in flatten(&all) {
                console::say(format_args!("{key:<40} {value}"));
            }
        }
        Stats::Json(None) => console::say(format_args!("{}", json!(all))),
        Stats::Json(Some(path)) => {
            std::fs::write(path, format!("{}\n", json!(all))).map_err(|source| Error::Write {
                name: path.display().to_string(),
                source,
            })?;
        }
    }
    Ok(())
}

/// One line per number; those that are zero are left out of the nested ones.
fn flatten(all: &Map<String, Value>) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for (key, value) in all {
        match value {
            Value::Object(inner) => {
                for (name, v) in inner {
                    match v {
                        Value::Array(list) => lines.extend(
                            list.iter()
                                .enumerate()
                                .filter(|(_, n)| n.as_u64() != Some(0))
                                .map(|(i, n)| (format!("{key}.{name}[{i}]"), n.to_string())),
                        ),
                        Value::Null => {}
                        v if v.as_u64() == Some(0) => {}
                        v => lines.push((format!("{key}.{name}"), v.to_string())),
                    }
                }
            }
            Value::String(s) => lines.push((key.clone(), s.clone())),
            v => lines.push((key.clone(), v.to_string())),
        }
    }
    lines
}
