//! Machine files: the options of `emu run` in a TOML file (`emu run machine.toml`), and the other way (`--write-config`).
//!
//! Both go through [`Settings`], a list of options with their values as a command line has them. What options there are
//! is asked of clap; only where each stands in a file is said here ([`layout`]), and what is not said stands in `[machine]`.
//! So a new option is in machine files without another word. Values are checked by the option's own reader, and a mistake
//! is told with the file's name and line.
//!
//! What the command line says beside the file wins; options that can be given several times add to the file's.

mod layout;
mod read;
mod write;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The longest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The commands that take a machine file as the guest.
const TAKING: [&str; 3] = ["run", "debug", "trace"];

/// An option as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Clap's id of it.
    pub id: String,
    /// `None`: a switch that is on.
    pub value: Option<OsString>,
    /// The file's line, from 1; 0: the command line.
    pub line: usize,
}

/// What was asked for, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(pub Vec<Setting>);

/// Why a command line or its file is not understood.
#[derive(Debug)]
pub enum Mistake {
    Usage(clap::Error),
    /// One line for the user.
    File(String),
    Write(String),
}

impl From<clap::Error> for Mistake {
    fn from(e: clap::Error) -> Self {
        Self::Usage(e)
    }
}

/// Whether an option can be in a machine file.
fn in_files(arg: &Arg) -> bool {
    !matches!(arg.get_id().as_str(), "help" | "version" | "write_config")
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// `emu run`'s options.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| in_files(arg))
}

impl Settings {
    /// What the command line itself says.
    fn given(command: &Command, matches: &ArgMatches) -> Self {
        let mut list = Vec::new();
        for arg in options(command) {
            let id = arg.get_id().as_str();
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let mut add = |value| {
                list.push(Setting {
                    id: id.into(),
                    value,
                    line: 0,
                });
            };
            if is_switch(arg) {
                add(None);
                continue;
            }
            for occurrence in matches.get_raw_occurrences(id).into_iter().flatten() {
                let delimiter = arg.get_value_delimiter().unwrap_or(',').to_string();
                let values: Vec<OsString> = occurrence.map(OsString::from).collect();
                add(Some(values.join(delimiter.as_ref())));
            }
        }
        Self(list)
    }

    /// The file's settings with those of the command line in their place or behind them.
    fn merged(mut self, command: &Command, given: Self) -> Self {
        let lists: Vec<&str> = options(command)
            .filter(|arg| is_list(arg))
            .map(|arg| arg.get_id().as_str())
            .collect();
        self.0.retain(|s| {
            lists.contains(&s.id.as_str()) || given.0.iter().all(|other| other.id != s.id)
        });
        self.0.extend(given.0);
        self
    }

    /// As a command line, without the program's and the subcommand's names.
    fn arguments(&self, command: &Command) -> Vec<OsString> {
        let mut out = Vec::new();
        let mut positional = Vec::new();
        for setting in &self.0 {
            let arg = options(command).find(|arg| arg.get_id().as_str() == setting.id);
            let Some(arg) = arg else { continue };
            match (arg.get_long(), &setting.value) {
                (None, value) => positional.extend(value.clone()),
                (Some(long), None) => out.push(format!("--{long}").into()),
                (Some(long), Some(value)) => {
                    let mut text = OsString::from(format!("--{long}="));
                    text.push(value);
                    out.push(text);
                }
            }
        }
        if !positional.is_empty() {
            out.push("--".into());
            out.extend(positional);
        }
        out
    }

    /// The line of the setting that an error is about.
    fn line_of(&self, command: &Command, e: &clap::Error) -> Option<usize> {
        let Some(ContextValue::String(arg)) = e.get(ContextKind::InvalidArg) else {
            return None;
        };
        let value = match e.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => Some(value.as_str()),
            _ => None,
        };
        let long = arg.trim_start_matches('-');
        let long = long.split([' ', '=', '[']).next().unwrap_or(long);
        let found = self.0.iter().filter(|s| {
            options(command)
                .find(|a| a.get_id().as_str() == s.id)
                .is_some_and(|a| a.get_long().is_none_or(|l| l == long))
        });
        let exact = |s: &&Setting| s.value.as_deref().and_then(|v| v.to_str()) == value;
        let mut found: Vec<&Setting> = found.collect();
        found.sort_by_key(|s| !exact(s));
        found.first().map(|s| s.line).filter(|line| *line > 0)
    }
}

/// Reads the command line, with the machine file that it names.
pub fn parse<C: CommandFactory + FromArgMatches>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<C, Mistake> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut program = C::command();
    let mut matches = program.try_get_matches_from_mut(&args)?;
    program.build();
    if let Some((name, run)) = matches.subcommand()
        && TAKING.contains(&name)
        && let Some(command) = program.find_subcommand(name)
    {
        let mut given = Settings::given(command, run);
        if let Some(file) = machine_file(run) {
            given.0.retain(|s| s.id != "guest");
            let settings = Settings::read(command, &file)?.merged(command, given);
            let mut line: Vec<OsString> = args[..1].to_vec();
            line.push(name.into());
            line.extend(settings.arguments(command));
            let to = run.get_one::<PathBuf>("write_config").cloned();
            matches = match program.clone().try_get_matches_from_mut(line) {
                Ok(matches) => matches,
                Err(e) => return Err(told(&settings, command, &file, e)),
            };
            if let Some(to) = to {
                settings.write(command, &to)?;
            }
        } else if let Some(to) = run.get_one::<PathBuf>("write_config") {
            given.write(command, to)?;
        }
    }
    Ok(C::from_arg_matches(&matches)?)
}

/// The machine file that is named as the guest.
fn machine_file(run: &ArgMatches) -> Option<PathBuf> {
    let guest = run.get_one::<PathBuf>("guest")?;
    guest
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("toml"))
        .then(|| guest.clone())
}

/// Clap's complaint about a file's setting.
fn told(settings: &Settings, command: &Command, file: &Path, e: clap::Error) -> Mistake {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Mistake::Usage(e);
    }
    let line = settings.line_of(command, &e);
    let text = crate::args::one_line(&e);
    Mistake::File(match line {
        Some(line) => format!("{}:{line}: {text}", file.display()),
        None => format!("{}: {text}", file.display()),
    })
}

#[cfg(test)]
mod tests;
