//! What a machine can have of a timeline: a record needs all that comes from outside to go by the log, and going back needs a machine
//! whose every part does.

use super::Timeline;
use super::record::{Record, RecordError, Writer};
use crate::args::Options;
use crate::drives;
use crate::vm::Vm;
use emu_devices::backend::InputQueue;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

impl Timeline {
    /// The log of what comes from outside, and the checkpoints (if it is `debugged`): as far as this machine can have them.
    pub fn of(
        vm: &Vm,
        options: &Options,
        port: Arc<InputQueue>,
        gate: Arc<AtomicBool>,
        replay: Option<Record>,
        debugged: bool,
    ) -> Result<Self, RecordError> {
        let recorded = options.record.is_some() || replay.is_some();
        let what = match options.record {
            Some(_) => "--record",
            None => "replay",
        };
        let written = |d: &&drives::Attached| d.format.is_some() && !d.cdrom && !d.spec.read_only;
        if let Some(d) = vm.drives.iter().filter(written).find(|d| !d.spec.snapshot)
            && recorded
        {
            let drive = d
                .spec
                .file
                .as_deref()
                .unwrap_or(Path::new(""))
                .display()
                .to_string();
            return Err(RecordError::Drive { what, drive });
        }
        // What a drive has taken does not go back with the machine.
        let back = !vm.drives.iter().any(|d| written(&d));
        let interval = match back && debugged {
            true => options.debugger.checkpoint_interval,
            false => 0,
        };
        let mut timeline = Self::new(port, gate, interval);
        timeline.no_reboot = options.no_reboot;
        if let Some(path) = &options.record {
            let mut skip = false;
            let arguments = std::env::args().skip(1).filter(|a| {
                if std::mem::take(&mut skip) {
                    return false;
                }
                skip = a == "--record";
                !skip && !a.starts_with("--record=")
            });
            timeline.write_to(Writer::create(path, arguments.collect())?);
        }
        if let Some(record) = replay {
            timeline.replay(record.log, record.end);
        }
        Ok(timeline)
    }
}
