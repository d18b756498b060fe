//! `emu run`: steps the machine until something ends it.
//!
//! The loop owns the host's side of time: it sleeps while the guest idles on the host clock, looks at signals, the console's
//! quit key and the limits between slices, and writes out what the serial ports have sent at least every few
//! milliseconds.

use crate::args::{self, Options};
use crate::boot::Choice;
use crate::commands::Commands;
use crate::console;
use crate::debug;
use crate::display::{self, Display, Graphics};
use crate::error::Error;
use crate::gdb;
use crate::machine_file::{self, Mistake};
use crate::monitor;
use crate::netdev::Wiring;
use crate::output::{Kept, Output};
use crate::report;
use crate::signals::{self, Control};
use crate::state::{Cause, RunState};
use crate::stats;
use crate::status::Status;
use crate::timeline::Timeline;
use crate::timeline::record::{self, Record};
use crate::trace;
use crate::vm::Vm;
use emu_core::cpu::segment;
use emu_core::runner::Step;
use emu_devices::backend::{InputQueue, Waker};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How often output is written out and its errors are looked at.
const FLUSH: Duration = Duration::from_millis(4);
/// The longest sleep when the board plans nothing.
const DOZE: Duration = Duration::from_millis(100);

/// `emu run`.
pub fn run(options: &Options) -> Result<Status, Error> {
    let d = &options.debugger;
    drive_machine(options, d.debug || d.tui, None, None)
}

/// `emu debug`: the guest waits for its debugger.
pub fn debug(options: &Options) -> Result<Status, Error> {
    let mut options = options.clone();
    options.paused = !options.debugger.debug;
    drive_machine(&options, true, None, None)
}

/// `emu trace`.
pub fn trace(asked: &trace::Command) -> Result<Status, Error> {
    match &asked.command {
        Some(trace::Sub::Show(show)) => trace::show(show),
        None => drive_machine(
            &asked.machine,
            asked.machine.debugger.debug,
            None,
            Some(&asked.trace),
        ),
    }
}

/// `emu replay`: a recorded run again, to the same end.
pub fn replay(asked: &args::Replay) -> Result<Status, Error> {
    let record = record::read(&asked.file)?;
    let line = std::iter::once("emu".to_string()).chain(record.arguments.iter().cloned());
    let parsed = machine_file::parse::<args::Cli>(line.map(Into::into));
    let wrong = |what: String| record::RecordError::Format {
        path: asked.file.clone(),
        line: 1,
        what: format!("its command line: {what}"),
    };
    let mut options = match parsed {
        Ok(args::Cli {
            command: args::Command::Run(options) | args::Command::Debug(options),
        }) => *options,
        Ok(_) => return Err(wrong("it is not that of emu run".into()).into()),
        Err(Mistake::Usage(e)) => return Err(wrong(args::one_line(&e)).into()),
        Err(Mistake::File(line) | Mistake::Write(line)) => return Err(wrong(line).into()),
    };
    let d = &asked.debugger;
    let debugged = d.debug || d.tui || d.json || !(d.lines.is_empty() && d.scripts.is_empty());
    options.engine = asked.engine.unwrap_or(options.engine);
    if !asked.serial.is_empty() {
        options.serial.clone_from(&asked.serial);
    }
    options.debugger = d.clone();
    options.paused = debugged && !d.debug;
    (options.record, options.timeout, options.max_insns) = (None, None, None);
    (options.qmp, options.monitor, options.display) = Default::default();
    drive_machine(&options, debugged, Some(record), None)
}

/// Builds the machine and drives it; `debugged`: the debugger has the terminal.
fn drive_machine(
    options: &Options,
    debugged: bool,
    replay: Option<Record>,
    traced: Option<&trace::TraceOptions>,
) -> Result<Status, Error> {
    let asked = Instant::now();
    if options.write_config.is_some() {
        // Done when the options were read.
        return Ok(Status::Listed);
    }
    if options.cpu == "help" {
        return args::list_cpus();
    }
    let mut options = with_a_screen(options)?;
    let recorded = options.record.is_some() || replay.is_some();
    if recorded && options.clock != "virtual" {
        return Err(record::RecordError::Clock.into());
    }
    let tui = match debugged && options.debugger.tui {
        true => Some(full_screen(&mut options)?),
        false => None,
    };
    // What the guest says while it goes where it has been is not said again.
    let gate = Arc::new(AtomicBool::new(true));
    let looked_at = debugged || options.debugger.gdb.is_some();
    let timed = recorded || looked_at && options.clock == "virtual";
    if timed {
        options.output = Output::Timed(gate.clone(), tui.clone());
        options.wiring = match replay.is_some() {
            true => Wiring::Closed,
            false => Wiring::Doors,
        };
    }
    let options = &options;
    let control = Arc::new(Control::default());
    let input = Arc::new(InputQueue::announced());
    let displays = display::bind(options)?;
    let serial = options.guest_has_stdio();
    if !serial {
        input.close();
    }
    signals::watch(control.clone()).map_err(Error::Signals)?;
    let bound = monitor::Bound::new(options)?;
    // With a timeline the guest's serial port gets what the timeline has noted.
    let port = match timed {
        true => Arc::new(InputQueue::announced()),
        false => input.clone(),
    };
    let gdb = gdb::Bound::new(options)?;
    let mut vm = Vm::new(options, &port)?;
    if timed {
        let replays = replay.is_some();
        let t = Timeline::of(&vm, options, port, gate, replay, looked_at)?;
        vm.timeline = Some(Box::new(t));
        if replays {
            input.close();
        }
    }
    let waker = control.clone();
    vm.networks
        .set_waker(&(Arc::new(move || waker.input_arrived()) as Waker));
    if options.paused {
        vm.hold();
    }
    let commands = Commands::new(control.clone());
    let monitor = bound.serve(options, &commands)?;
    vm.events = monitor.events.clone();
    monitor::watch_trays(&vm);
    if looked_at {
        // The core keeps more of exceptions from now on.
        vm.runner.cpu.hooks();
    }
    if looked_at || traced.is_some() {
        debug::read_symbols(&mut vm, options).map_err(Error::Symbols)?;
    }
    if let Some(asked) = traced {
        trace::begin(&mut vm, asked).map_err(Error::Trace)?;
    }
    let gdb = gdb.serve(&mut vm, options, &commands)?;
    if debugged {
        let guest = serial.then(|| input.clone());
        debugger(&mut vm, options, guest, &commands, &control, tui)?;
    }
    let stdio = options.reads_stdio() && !debugged && !vm.replays();
    let raw = if stdio { console::raw() } else { None };
    if stdio {
        let reader = console::Reader {
            guest: serial.then(|| input.clone()),
            monitor: monitor.on_console(raw.is_some()),
            terminal: raw.is_some(),
            control: control.clone(),
            commands: commands.clone(),
        };
        reader.start();
    }

    let began = Instant::now();
    let start = began - asked;
    let shown = displays.show(&vm, &commands, &control)?;
    let done = drive(&mut vm, options, &control, &commands, &input, began);
    commands.close();
    vm.debug.close();
    trace::ended(&mut vm);
    if let Some(gdb) = gdb {
        gdb.end(done.as_ref().map_or(Status::HostError.code(), |s| s.code()));
    }
    drop(shown);
    drop(monitor);
    let wall = began.elapsed();
    let error = vm.with_pc(|pc| pc.flush()).flatten();
    let record_error = vm.end_record();
    drop(raw);
    console::restore();
    if let Ok(status) = done {
        explain(status, options, &vm);
        if let Some(to) = &options.stats {
            stats::write(to, &vm, status, start, wall)?;
        }
    }
    if let Some(e) = record_error {
        let path = options.record.as_deref().unwrap_or(Path::new(""));
        console::say(format_args!(
            "emu: --record {}: {e}: the record is not complete",
            path.display()
        ));
    }
    let done = match done {
        Ok(status) => Ok(vm.replay_ended(status)),
        Err(e) => Err(e),
    };
    match (done, error) {
        // A status that the guest or the user has chosen outranks a console that failed at the very end.
        (Ok(Status::PowerOff | Status::Reset), Some(e)) => Err(Error::Output(e)),
        (done, _) => done,
    }
}

/// The debugger at the terminal.
fn debugger(
    vm: &mut Vm,
    options: &Options,
    guest: Option<Arc<InputQueue>>,
    commands: &Arc<Commands>,
    control: &Arc<Control>,
    tui: Option<Arc<Kept>>,
) -> Result<(), Error> {
    let d = &options.debugger;
    vm.debug.attached += 1;
    let stops = vm.debug.listen();
    let files = d.scripts.iter().map(|f| format!("source {}", f.display()));
    let start = debug::Start {
        commands: commands.clone(),
        control: control.clone(),
        guest,
        lines: files.chain(d.lines.iter().cloned()).collect(),
        json: d.json,
        running: d.debug || d.tui && !options.paused,
        tui,
    };
    start.start(stops).map_err(Error::Thread)
}

/// The debugger has the whole terminal; what the guest writes there is kept for it.
fn full_screen(options: &mut Options) -> Result<Arc<Kept>, Error> {
    if !display::on_a_terminal() {
        return Err(Error::TuiNoTerminal);
    }
    if options.display.iter().any(Display::is_terminal) {
        return Err(Error::TuiTwice);
    }
    let kept = Arc::new(Kept::default());
    options.output = Output::Kept(kept.clone());
    Ok(kept)
}

/// What boots from a drive shows itself on the screen: on a terminal that nobody else wants, that is where it is.
fn with_a_screen(options: &Options) -> Result<Options, Error> {
    let mut options = options.clone();
    if options.leaves_the_terminal()
        && display::on_a_terminal()
        && matches!(Choice::of(&options)?, Choice::Drives(_))
    {
        options.display.push(Display::Terminal(Graphics::Auto));
    }
    Ok(options)
}

fn drive(
    vm: &mut Vm,
    options: &Options,
    control: &Control,
    commands: &Commands,
    input: &InputQueue,
    began: Instant,
) -> Result<Status, Error> {
    let limit = options.max_insns.unwrap_or(u64::MAX);
    let deadline = options.timeout.map(Duration::from_secs_f64);
    let mut flushed = Instant::now();
    let mut crashes = report::Crashes::default();
    loop {
        if let Some(status) = control.stop() {
            vm.shutting_down(control.cause());
            return Ok(status);
        }
        if vm.runner.cpu.retired >= limit {
            vm.shutting_down(Cause::HostUi);
            return Ok(Status::MaxInsns);
        }
        if vm.timeline.is_some() {
            vm.feed_serial(input);
            vm.feed_networks();
            if vm.replayed() {
                return Ok(Status::Alike);
            }
        } else if control.take_input() {
            let guest = vm.runner.cpu.now();
            vm.with_pc(|pc| pc.input_arrived(guest));
        }
        let now = Instant::now();
        if deadline.is_some_and(|d| now - began >= d) {
            vm.shutting_down(Cause::HostUi);
            return Ok(Status::Timeout);
        }
        if now - flushed >= FLUSH {
            flushed = now;
            write_out(vm)?;
        }
        commands.serve(vm);
        let left = deadline.map_or(DOZE, |d| d.saturating_sub(now - began));
        let (status, cause) = if std::mem::take(&mut vm.reset_wanted) {
            (Status::Reset, Cause::MonitorReset)
        } else if vm.state() != RunState::Running {
            control.sleep(left.min(DOZE));
            continue;
        } else {
            vm.tick();
            let limit = limit
                .min(vm.debug.limit())
                .min(vm.timeline_limit())
                .min(vm.trace_limit());
            let step = vm.runner.step(limit);
            if vm.traced() {
                vm.shutting_down(Cause::HostUi);
                return Ok(Status::Quit);
            }
            match step {
                Step::Ran => {
                    vm.check_count();
                    continue;
                }
                Step::Debug => {
                    write_out(vm)?;
                    vm.hooked();
                    continue;
                }
                Step::Idle(None)
                    if vm.debug.attached == 0
                        && !input.is_open()
                        && !vm.events.has_listeners()
                        && vm.networks.is_empty() =>
                {
                    (Status::Halted, Cause::GuestShutdown)
                }
                Step::Idle(next) => {
                    write_out(vm)?;
                    let guest = vm.runner.cpu.now();
                    let planned =
                        next.map_or(DOZE, |t| Duration::from_nanos(t.saturating_sub(guest)));
                    let began = Instant::now();
                    control.sleep(planned.min(left).min(DOZE));
                    if vm.runner.waits {
                        vm.runner.waited(began.elapsed().as_nanos() as u64, next);
                    }
                    continue;
                }
                Step::Halted if vm.halted() => continue,
                Step::Halted => (Status::Halted, Cause::GuestShutdown),
                Step::PowerOff => (Status::PowerOff, Cause::GuestShutdown),
                Step::DebugExit(code) => (Status::DebugExit(code), Cause::GuestShutdown),
                Step::GuestPanic(what) => match vm.panicked(what, options.no_shutdown) {
                    true => (Status::GuestPanic, Cause::GuestPanic),
                    false => continue,
                },
                Step::Init => {
                    vm.init()?;
                    continue;
                }
                Step::Reset => (Status::Reset, Cause::GuestReset),
                Step::TripleFault if vm.triple_fault() => continue,
                Step::TripleFault => {
                    vm.with_pc(|pc| pc.flush());
                    let text = crashes.next(&mut vm.runner);
                    if !text.is_empty() {
                        // In one piece, and not in the middle of the guest's line.
                        let _ = write!(std::io::stderr(), "\n{text}");
                    }
                    (Status::TripleFault, Cause::GuestReset)
                }
            }
        };
        if matches!(status, Status::Reset | Status::TripleFault) && !options.no_reboot {
            vm.reset()?;
            vm.was_reset(cause);
            continue;
        }
        vm.shutting_down(cause);
        if !options.no_shutdown {
            return Ok(status);
        }
        vm.stop(RunState::Shutdown);
    }
}

/// Writes out what the guest has sent. An output that fails ends the run; a flash file that fails is said once.
fn write_out(vm: &Vm) -> Result<(), Error> {
    if let Some(e) = vm.with_pc(|pc| pc.flush()).flatten() {
        vm.shutting_down(Cause::HostError);
        return Err(Error::Output(e));
    }
    if let Some(e) = vm.with_pc(|pc| pc.take_flash_error()).flatten() {
        console::say(format_args!(
            "emu: --pflash: {e}: what the guest writes there is lost from now on"
        ));
    }
    Ok(())
}

/// Where the CPU is, as a debugger shows it.
fn place(vm: &Vm) -> String {
    let cpu = &vm.runner.cpu;
    format!(
        "{:04x}:{:x}",
        cpu.seg[segment::CS as usize].selector,
        cpu.rip
    )
}

/// One line on why a run ended, unless the guest ended it itself.
fn explain(status: Status, options: &Options, vm: &Vm) {
    let retired = vm.runner.cpu.retired;
    match status {
        Status::Timeout => {
            let limit = options.timeout.unwrap_or_default();
            console::say(format_args!(
                "emu: --timeout: {limit} s have passed ({retired} instructions; the guest is at {})",
                place(vm)
            ));
        }
        Status::MaxInsns => console::say(format_args!(
            "emu: --max-insns: {retired} instructions executed"
        )),
        Status::Halted => {
            // A kernel that is too new for the CPU model has no other way to say so than to stop.
            let undefined = vm.runner.cpu.stats.exceptions[6];
            let hint = match undefined {
                0 => String::new(),
                n => format!(
                    "; undefined instructions (#UD): {n}; is --cpu {} enough for it?",
                    options.cpu
                ),
            };
            console::say(format_args!(
                "emu: the guest has halted for good at {:#x} ({retired} instructions){hint}",
                vm.runner.cpu.rip
            ))
        }
        Status::GuestPanic => {
            console::say(format_args!("emu: the guest reports a panic (pvpanic)"))
        }
        Status::Signal(n) => console::say(format_args!("emu: {}", signals::message(n))),
        _ => {}
    }
}
