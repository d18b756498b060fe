//! A terminal of one's own, and the program on it.
#![allow(dead_code)] // each test program uses its own part

use super::common::emu;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

pub struct Terminal {
    pub master: File,
    pub slave: File,
}

impl Terminal {
    pub fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        Self {
            master: master.into(),
            slave,
        }
    }

    /// The program with the terminal as standard input and output.
    pub fn start(&self, args: &[&str]) -> Child {
        self.start_as(emu(args))
    }

    /// The same of a command of its own.
    pub fn start_as(&self, mut command: Command) -> Child {
        let end = || Stdio::from(OwnedFd::from(self.slave.try_clone().unwrap()));
        command
            .stdin(end())
            .stdout(end())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}
