//! The machine as `gdbstub` asks for it: each question is a visit to the machine's thread.
//!
//! Breakpoints and watchpoints are hooks of the client's own, at linear addresses; nothing is written into the guest's memory for
//! them, so "software" and "hardware" differ by the word in the stop reply alone, and there is no limit of four. They go with the client.

mod monitor;
mod points;
mod resume;

use super::bell::Bell;
use super::registers::{Layout, Values};
use super::thread_name;
use crate::commands::Commands;
use crate::debug::control::{Reason, Stop, Want};
use crate::debug::env;
use crate::debug::expr::Space;
use crate::debug::report;
use crate::debug::session::Outcome;
use crate::state::RunState;
use crate::vm::Vm;
use emu_core::hooks::{HookId, Space as Place};
use emu_core::vcpu::Vcpu;
use gdbstub::arch::{Arch, RegId, Registers};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::reverse_exec::ReplayLogPosition;
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::{BreakpointsOps, WatchKind};
use gdbstub::target::ext::exec_file::{ExecFile, ExecFileOps};
use gdbstub::target::ext::host_info::{HostInfo, HostInfoOps, HostInfoResponse};
use gdbstub::target::ext::memory_map::{MemoryMap, MemoryMapOps};
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Breakpoints and watchpoints of a client at most.
const MOST_POINTS: usize = 10_000;
/// Bytes that a watchpoint covers at most.
const WIDEST: u64 = 1 << 20;
/// `Bad address`, as GDB expects it for memory that is not there.
const EFAULT: u8 = 14;
const EINVAL: u8 = 22;
const ENOSPC: u8 = 28;
/// Addresses are linear, and any of them may be RAM: a client must not keep to itself what it thinks is not there.
const MEMORY_MAP: &str = r#"<?xml version="1.0"?>
<!DOCTYPE memory-map PUBLIC "+//IDN gnu.org//DTD GDB Memory Map V1.0//EN" "http://sourceware.org/gdb/gdb-memory-map.dtd">
<memory-map>
<memory type="ram" start="0x0" length="0x8000000000000000"/>
<memory type="ram" start="0x8000000000000000" length="0x7fffffffffffffff"/>
</memory-map>
"#;

/// The run has ended: there is no machine any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run has ended")]
pub struct Ended;

/// x86 as `gdbstub` knows it; what there is to know is in the [`Layout`].
pub struct X86;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub usize);

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Self, Option<std::num::NonZeroUsize>)> {
        Some((Self(id), None))
    }
    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// The contents of a `g` or `G` packet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packet(Vec<Option<u8>>);

impl Registers for Packet {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        0
    }
    fn gdb_serialize(&self, write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().copied().for_each(write_byte);
    }
    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = bytes.iter().copied().map(Some).collect();
        Ok(())
    }
}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Packet;
    type BreakpointKind = usize;
    type RegId = Number;
}

/// What a client's hook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Software,
    Hardware,
    Watch(WatchKind),
}

/// A client's breakpoint or watchpoint.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    kind: Kind,
    at: u64,
    len: u64,
    hook: HookId,
}

/// See the module's comment.
pub struct Machine {
    commands: Arc<Commands>,
    bell: Arc<Bell>,
    /// What the client takes the CPU for; the first is what it is given unasked.
    layouts: Vec<Arc<Layout>>,
    layout: Arc<Layout>,
    /// The kernel's file, if it is one that a debugger reads symbols from.
    executable: Option<String>,
    points: Vec<Point>,
    /// What the guest is to run for when it is resumed.
    want: Want,
    /// The client has put the program counter elsewhere: a breakpoint there has not been seen.
    moved: bool,
    /// Addresses are physical (`monitor phys on`, `Qqemu.PhyMemMode`).
    pub physical: bool,
    /// The connection, to see whether the client has something to say.
    client: OwnedFd,
    attached: bool,
}

/// What a stop comes to.
pub struct Told {
    pub reply: MultiThreadStopReason<u64>,
    /// Words for the client's console.
    pub text: String,
    /// The first values that a client asks for.
    pub registers: Vec<(Number, Vec<u8>)>,
    /// A breakpoint's commands have let the guest go on.
    pub going: bool,
}

/// The only vCPU.
pub const FIRST: Tid = Tid::MIN;

impl Machine {
    pub fn new(
        commands: Arc<Commands>,
        bell: Arc<Bell>,
        layouts: Vec<Arc<Layout>>,
        executable: Option<String>,
        client: OwnedFd,
    ) -> Self {
        Self {
            commands,
            bell,
            layout: layouts[0].clone(),
            layouts,
            executable,
            points: Vec::new(),
            want: Want::Run,
            moved: false,
            physical: false,
            client,
            attached: false,
        }
    }

    fn visit<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Vm) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        self.commands.call(f).ok_or(Ended)
    }

    /// The client is there: the guest stands still for it.
    pub fn attach(&mut self) -> Result<(), Ended> {
        if std::mem::replace(&mut self.attached, true) {
            return Ok(());
        }
        self.visit(|vm| {
            vm.debug.attached += 1;
            vm.stop(RunState::Paused);
        })
    }

    /// The client is gone: its hooks go, and unless another debugger holds the guest, it runs on.
    pub fn detach(&mut self) {
        if !std::mem::take(&mut self.attached) {
            return;
        }
        let hooks: Vec<HookId> = self.points.drain(..).map(|p| p.hook).collect();
        // A run that has ended leaves nothing to tidy up.
        let _ = self.visit(move |vm| {
            let list = vm.runner.cpu.hooks();
            hooks.into_iter().for_each(|id| {
                list.remove(id);
            });
            vm.debug.attached = vm.debug.attached.saturating_sub(1);
            if vm.debug.attached == 0 {
                vm.go(Want::Run);
            }
        });
    }

    /// Stops the guest; the bell rings when it stands.
    pub fn interrupt(&self) {
        self.commands.post(|vm| vm.stop(RunState::Paused));
    }

    /// Ends the run.
    pub fn kill(&self) {
        self.commands.quit();
    }

    /// Reads as much as there is of a range, page by page; an error if that is nothing.
    pub fn read_memory(&self, at: u64, len: usize) -> Result<Vec<u8>, TargetError<Ended>> {
        let space = self.space();
        let read = move |vm: &mut Vm| {
            let mut bytes = vec![0; len];
            let mut done = 0;
            while done < len {
                let here = at.wrapping_add(done as u64);
                let n = (0x1000 - (here & 0xfff) as usize).min(len - done);
                if !env::read(&vm.runner.cpu, space, here, &mut bytes[done..done + n]) {
                    break;
                }
                done += n;
            }
            bytes.truncate(done);
            bytes
        };
        let bytes = self.visit(read).map_err(TargetError::Fatal)?;
        match bytes.is_empty() && len > 0 {
            true => Err(TargetError::Errno(EFAULT)),
            false => Ok(bytes),
        }
    }

    fn space(&self) -> Space {
        match self.physical {
            true => Space::Physical,
            false => Space::Linear,
        }
    }

    fn place(&self) -> Place {
        match self.physical {
            true => Place::Physical,
            false => Place::Linear,
        }
    }

    /// Changes registers; false: some of it was refused.
    fn write(
        &mut self,
        f: impl FnOnce(&mut Vcpu) -> bool + Send + 'static,
    ) -> TargetResult<(), Self> {
        let (done, moved) = self
            .visit(move |vm| {
                let cpu = &mut vm.runner.cpu;
                let before = cpu.code_address();
                (f(cpu), cpu.code_address() != before)
            })
            .map_err(TargetError::Fatal)?;
        self.moved |= moved;
        match done {
            true => Ok(()),
            false => Err(TargetError::Errno(EINVAL)),
        }
    }

    /// What a client is told about a stop. Signals are QEMU's: SIGINT for a stop from outside, SIGQUIT for a guest that has
    /// ended; a triple fault, at which QEMU does not stop, is SIGABRT.
    pub fn told(&self, stop: Stop) -> Result<Told, Ended> {
        let tid = FIRST;
        let signal = |signal| MultiThreadStopReason::SignalWithThread { tid, signal };
        let hit = |of: fn(&Kind) -> bool| {
            let own = |r: &Reason| match r {
                Reason::Hit(h) => self.points.iter().find(|p| p.hook == h.id && of(&p.kind)),
                _ => None,
            };
            stop.reasons.iter().find_map(own)
        };
        let reply = if let Some(p) = hit(|k| matches!(k, Kind::Watch(_)))
            && let Kind::Watch(kind) = p.kind
        {
            MultiThreadStopReason::Watch {
                tid,
                kind,
                addr: p.at,
            }
        } else if hit(|k| *k == Kind::Software).is_some() {
            MultiThreadStopReason::SwBreak(tid)
        } else if hit(|k| *k == Kind::Hardware).is_some() {
            MultiThreadStopReason::HwBreak(tid)
        } else if stop.reasons == [Reason::Beginning] {
            MultiThreadStopReason::ReplayLog {
                tid: Some(tid),
                pos: ReplayLogPosition::Begin,
            }
        } else {
            signal(match stop.reasons.first() {
                Some(Reason::Paused) => Signal::SIGINT,
                Some(Reason::TripleFault) => Signal::SIGABRT,
                Some(Reason::Ended | Reason::Halted) => Signal::SIGQUIT,
                _ => Signal::SIGTRAP,
            })
        };
        let known = |r: &Reason| match r {
            Reason::Hit(h) => self.points.iter().any(|p| p.hook == h.id),
            Reason::Done | Reason::Paused | Reason::Interrupt { .. } | Reason::Beginning => true,
            Reason::TripleFault | Reason::Ended | Reason::Halted => false,
        };
        let silent = stop.reasons.iter().all(known);
        let layout = self.layout.clone();
        let (text, then, registers) = self.visit(move |vm| {
            // What only our debugger knows of is told in its words, once: another one says it itself.
            let report = (!silent && vm.debug.attached == 1).then(|| report::report(vm, &stop));
            let (text, then) = report.map_or((String::new(), None), |r| (r.text, r.then));
            let cpu = &mut vm.runner.cpu;
            let value = |n| Some((Number(n), layout.read(cpu, n)?));
            let registers: Vec<_> = layout.expedited().into_iter().filter_map(value).collect();
            (text, then, registers)
        })?;
        if then == Some(Outcome::Quit) {
            self.kill();
        }
        Ok(Told {
            reply,
            text,
            registers,
            going: matches!(then, Some(Outcome::Going(_))),
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.detach();
    }
}

/// The part of a document that is asked for; the bytes that were copied.
fn part(document: &[u8], offset: u64, length: usize, buf: &mut [u8]) -> usize {
    let from = usize::try_from(offset).map_or(document.len(), |o| o.min(document.len()));
    let rest = &document[from..];
    let n = rest.len().min(length).min(buf.len());
    buf[..n].copy_from_slice(&rest[..n]);
    n
}

impl Target for Machine {
    type Arch = X86;
    type Error = Ended;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Ended> {
        BaseOps::MultiThread(self)
    }
    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
    fn support_memory_map(&mut self) -> Option<MemoryMapOps<'_, Self>> {
        Some(self)
    }
    fn support_exec_file(&mut self) -> Option<ExecFileOps<'_, Self>> {
        self.executable.is_some().then_some(self as _)
    }
    fn support_host_info(&mut self) -> Option<HostInfoOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Machine {
    fn read_registers(&mut self, regs: &mut Packet, _: Tid) -> TargetResult<(), Self> {
        let layout = self.layout.clone();
        let values: Values = self
            .visit(move |vm| layout.read_all(&mut vm.runner.cpu))
            .map_err(TargetError::Fatal)?;
        for (value, r) in values.into_iter().zip(&self.layout.registers) {
            match value {
                Some(bytes) => regs.0.extend(bytes.into_iter().map(Some)),
                None => regs.0.extend(std::iter::repeat_n(None, r.bytes)),
            }
        }
        Ok(())
    }

    fn write_registers(&mut self, regs: &Packet, _: Tid) -> TargetResult<(), Self> {
        let layout = self.layout.clone();
        let bytes: Vec<u8> = regs.0.iter().map(|b| b.unwrap_or(0)).collect();
        self.write(move |cpu| {
            let mut at = 0;
            let mut done = true;
            for (n, r) in layout.registers.iter().enumerate() {
                let Some(value) = bytes.get(at..at + r.bytes) else {
                    break;
                };
                at += r.bytes;
                // Only what has changed: many registers cannot be written at all.
                if layout.read(cpu, n).is_some_and(|old| old != value) {
                    done &= layout.write(cpu, n, value);
                }
            }
            done
        })
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, at: u64, data: &mut [u8], _: Tid) -> TargetResult<usize, Self> {
        let bytes = self.read_memory(at, data.len())?;
        data[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_addrs(&mut self, at: u64, data: &[u8], _: Tid) -> TargetResult<(), Self> {
        let (space, data) = (self.space(), data.to_vec());
        let done = self
            .visit(move |vm| env::write(&mut vm.runner.cpu, space, at, &data))
            .map_err(TargetError::Fatal)?;
        match done {
            true => Ok(()),
            false => Err(TargetError::Errno(EFAULT)),
        }
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Ended> {
        thread_is_active(FIRST);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Machine {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Ended> {
        let name = self.visit(move |vm| thread_name(vm, tid.get()))?;
        Ok(part(name.as_bytes(), 0, name.len(), buf))
    }
}

impl SingleRegisterAccess<Tid> for Machine {
    fn read_register(&mut self, _: Tid, n: Number, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let layout = self.layout.clone();
        let value = self
            .visit(move |vm| layout.read(&mut vm.runner.cpu, n.0))
            .map_err(TargetError::Fatal)?;
        match value {
            Some(v) => Ok(part(&v, 0, v.len(), buf)),
            None => Err(TargetError::Errno(EINVAL)),
        }
    }

    fn write_register(&mut self, _: Tid, n: Number, value: &[u8]) -> TargetResult<(), Self> {
        let (layout, value) = (self.layout.clone(), value.to_vec());
        self.write(move |cpu| layout.write(cpu, n.0, &value))
    }
}

impl TargetDescriptionXmlOverride for Machine {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        match annex {
            b"target.xml" => Ok(part(
                self.layout.description.as_bytes(),
                offset,
                length,
                buf,
            )),
            _ => Err(TargetError::Errno(EINVAL)),
        }
    }
}

impl MemoryMap for Machine {
    fn memory_map_xml(&self, offset: u64, len: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        Ok(part(MEMORY_MAP.as_bytes(), offset, len, buf))
    }
}

impl ExecFile for Machine {
    fn get_exec_file(
        &self,
        _: Option<gdbstub::common::Pid>,
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let path = self.executable.as_deref().unwrap_or_default();
        Ok(part(path.as_bytes(), offset, length, buf))
    }
}

impl HostInfo for Machine {
    fn host_info(&self, write_item: &mut dyn FnMut(&HostInfoResponse<'_>)) -> Result<(), Ended> {
        let (triple, size) = match self.layout.long {
            true => ("x86_64-unknown-none", 8),
            false => ("i386-unknown-none", 4),
        };
        write_item(&HostInfoResponse::Triple(triple));
        write_item(&HostInfoResponse::Endianness(
            gdbstub::common::Endianness::Little,
        ));
        write_item(&HostInfoResponse::PointerSize(size));
        Ok(())
    }
}
