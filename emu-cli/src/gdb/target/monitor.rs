//! `monitor COMMAND`: the debugger's own commands, and those about the connection.
//!
//! A command that lets the guest go is waited for, since a client takes its `monitor` for done when the answer comes: until the
//! guest stops, or the client sends anything, which stops it.

use super::{Ended, Machine};
use crate::debug::report;
use crate::debug::session::{self, Outcome};
use crate::gdb::registers::Layout;
use crate::state::RunState;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::Arc;

impl MonitorCmd for Machine {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Ended> {
        let text = self.monitor(&String::from_utf8_lossy(cmd))?;
        out.write_raw(text.as_bytes());
        Ok(())
    }
}

impl Machine {
    /// `monitor phys`.
    fn set_physical(&mut self, value: &str) -> String {
        match value {
            "on" => self.physical = true,
            "off" => self.physical = false,
            "" => {}
            other => return format!("phys: \"{other}\": on or off is needed\n"),
        }
        let what = match self.physical {
            true => "physical",
            false => "linear",
        };
        format!("Addresses are {what}.\n")
    }

    /// `monitor description`.
    fn describe(&mut self, name: &str) -> String {
        let named = |l: &&Arc<Layout>| l.architecture == name;
        if let Some(layout) = self.layouts.iter().find(named) {
            self.layout = layout.clone();
        } else if !name.is_empty() {
            let known: Vec<&str> = self.layouts.iter().map(|l| l.architecture).collect();
            return format!("description: \"{name}\": {} are known\n", known.join(", "));
        }
        format!(
            "The registers are described as {}; \"unset tdesc filename\" has GDB read them again.\n",
            self.layout.architecture
        )
    }

    /// Executes a line of the debugger. One that lets the guest go ends with the guest's next stop, which the client's next byte
    /// brings about at the latest.
    fn monitor(&mut self, line: &str) -> Result<String, Ended> {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match word {
            "phys" => return Ok(self.set_physical(rest.trim())),
            "description" => return Ok(self.describe(rest.trim())),
            _ => {}
        }
        let bell = self.bell.clone();
        let line = line.to_string();
        let answer = self.visit(move |vm| {
            bell.clear();
            session::execute(vm, &line)
        })?;
        let mut text = match answer {
            Ok(Outcome::Quit) => {
                self.kill();
                return Ok(String::new());
            }
            Ok(Outcome::Going(text)) => text + &self.wait_for_stop()?,
            Ok(outcome) => outcome.text().to_string(),
            Err(e) => e,
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    fn wait_for_stop(&self) -> Result<String, Ended> {
        let mut text = String::new();
        loop {
            let stop = loop {
                if self.bell.ended().is_some() {
                    return Err(Ended);
                }
                if let Some(stop) = self.bell.take() {
                    break stop;
                }
                let mut fds = [
                    self.bell.poll_fd(),
                    PollFd::new(&self.client, PollFlags::IN),
                ];
                // An interrupted wait is one that found nothing.
                let _ = poll(&mut fds, None);
                if !fds[1].revents().is_empty() {
                    let running = self.visit(|vm| {
                        vm.stop(RunState::Paused);
                        vm.debug.last.clone()
                    })?;
                    if let Some(stop) = running {
                        self.bell.clear();
                        break stop;
                    }
                }
            };
            let r = self.visit(move |vm| report::report(vm, &stop))?;
            text += &r.text;
            match r.then {
                Some(Outcome::Going(_)) => {}
                Some(Outcome::Quit) => {
                    self.kill();
                    return Ok(text);
                }
                _ => break,
            }
        }
        text += "GDB does not know that the guest has moved: \"maintenance flush register-cache\" tells it.\n";
        Ok(text)
    }
}
