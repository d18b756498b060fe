//! What is run: guests, engines, and the options that `emu run` would take for each pair.
//!
//! A run is described by the words of a command line and made from them by the same parser, so that the report can say how to
//! repeat one run, and a run here is what `emu run` does.

use super::{BenchError, BenchOptions};
use crate::args::Options;
use clap::{Args, Command, FromArgMatches};
use std::path::Path;

/// The marker lines that a guest prints.
pub const BEGIN: &str = "@init";
pub const END: &str = "@done";
const EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=1";
/// How far `--quick` follows the boot.
const QUICK_BOOT: u64 = 100_000_000;

/// One guest to be measured.
pub struct Guest {
    pub name: String,
    pub about: String,
    /// What `emu run` is given, but for clock, engine and serial port.
    pub words: Vec<String>,
    /// `{kernel}`, `{initrd}` and `{append}` of a rival's command; an image of ours has no file yet.
    pub kernel: Option<String>,
    pub initrd: String,
    pub append: String,
    /// A workload of ours, which checks itself.
    pub ours: Option<&'static emu_workloads::Workload>,
    /// The run is cut, so nobody else can be asked to do the same.
    pub cut: bool,
}

/// One way to run it.
#[derive(Clone)]
pub struct Engine {
    /// As in the report: the engine's name, with a number if it comes twice.
    pub label: String,
    pub kind: String,
    /// Optimisations that are off.
    pub off: Vec<String>,
}

impl Engine {
    fn words(&self) -> Vec<String> {
        let mut words = vec!["--engine".to_string(), self.kind.clone()];
        if !self.off.is_empty() {
            words.push(format!("--dbt-off={}", self.off.join(",")));
        }
        words
    }
}

/// The words after `emu run` for one run.
pub fn command(guest: &Guest, engine: &Engine) -> Vec<String> {
    let mut words = guest.words.clone();
    words.extend(["--clock", "virtual"].map(String::from));
    words.extend(engine.words());
    words
}

/// The same as options, with the serial port for ourselves.
pub fn options(guest: &Guest, engine: &Engine) -> Result<Options, BenchError> {
    let words = command(guest, engine);
    let all = ["run", "--serial", "null"].map(String::from);
    Options::augment_args(Command::new("run"))
        .try_get_matches_from(all.into_iter().chain(words))
        .and_then(|m| Options::from_arg_matches(&m))
        .map_err(|e| BenchError::Options(first_line(&e.to_string())))
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_string()
}

/// What `--engine` takes.
pub fn engines_known() -> Vec<String> {
    let command = Options::augment_args(Command::new("run"));
    let engine = command.get_arguments().find(|a| a.get_id() == "engine");
    engine.map_or(Vec::new(), |a| {
        let values = a.get_possible_values();
        values.iter().map(|v| v.get_name().to_string()).collect()
    })
}

/// The engines asked for, or all.
pub fn engines(asked: &[String]) -> Result<Vec<Engine>, BenchError> {
    let known = engines_known();
    let asked = match asked {
        [] => &known[..],
        some => some,
    };
    let mut list: Vec<Engine> = Vec::new();
    for kind in asked {
        if !known.contains(kind) {
            return Err(BenchError::Engine {
                name: kind.clone(),
                known: known.join(", "),
            });
        }
        let twins = list.iter().filter(|e| e.kind == *kind).count();
        list.push(Engine {
            label: match twins {
                0 => kind.clone(),
                n => format!("{kind}#{}", n + 1),
            },
            kind: kind.clone(),
            off: Vec::new(),
        });
    }
    Ok(list)
}

/// The guests asked for, and those that are left out, with the reason.
pub fn guests(o: &BenchOptions) -> Result<(Vec<Guest>, Vec<(String, String)>), BenchError> {
    if o.kernel.is_some() {
        return Ok((vec![own(o)], Vec::new()));
    }
    let known: Vec<&str> = emu_workloads::ALL.iter().map(|w| w.name).collect();
    for name in &o.only {
        if name != "boot" && !known.contains(&name.as_str()) {
            return Err(BenchError::Workload {
                name: name.clone(),
                known: format!("{}, boot", known.join(", ")),
            });
        }
    }
    let wanted = |name: &str| o.only.is_empty() || o.only.iter().any(|n| n == name);
    let mut list: Vec<Guest> = emu_workloads::ALL
        .iter()
        .filter(|w| wanted(w.name))
        .map(|w| workload(w, o))
        .collect();
    let mut left_out = Vec::new();
    if wanted("boot") {
        match boot(o) {
            Ok(guest) => list.push(guest),
            Err(why) => left_out.push(("boot".to_string(), why)),
        }
    }
    Ok((list, left_out))
}

fn workload(w: &'static emu_workloads::Workload, o: &BenchOptions) -> Guest {
    let append = format!("n={}", if o.quick { w.quick } else { w.full });
    let words = [
        &format!("bench:{}", w.name),
        "--append",
        &append,
        "--device",
        EXIT,
        "--memory",
        "64M",
        "--cpu",
        &o.cpu,
    ];
    Guest {
        name: w.name.into(),
        about: w.about.into(),
        words: words.map(String::from).to_vec(),
        kernel: None,
        initrd: String::new(),
        append,
        ours: Some(w),
        cut: false,
    }
}

/// Debian's kernel to its first process and down again, if `images/fetch.sh` has been run.
fn boot(o: &BenchOptions) -> Result<Guest, String> {
    let kernel = o.guests.join("vmlinuz-amd64");
    let initrd = o.guests.join("initramfs-amd64-micro.cpio");
    for file in [&kernel, &initrd] {
        if !file.is_file() {
            return Err(format!(
                "{} is missing: `sh images/fetch.sh {}` makes it, or --guests DIR says where it is",
                file.display(),
                o.guests.display()
            ));
        }
    }
    let text = |p: &Path| p.display().to_string();
    let mut guest = linux(
        "boot",
        text(&kernel),
        text(&initrd),
        "console=ttyS0 quiet panic=-1 gb=boot",
        o,
    );
    guest.about = "Debian's amd64 kernel from its first instruction to user space".into();
    if o.quick {
        guest.about += " (--quick: its first 100 million instructions)";
        guest
            .words
            .extend(["--max-insns".into(), QUICK_BOOT.to_string()]);
        guest.cut = true;
    }
    Ok(guest)
}

/// The guest of --kernel, --initrd and --append.
fn own(o: &BenchOptions) -> Guest {
    let text = |p: &Path| p.display().to_string();
    let kernel = o.kernel.as_deref().map(text).unwrap_or_default();
    let name = match Path::new(&kernel).file_stem() {
        Some(stem) => stem.to_string_lossy().into_owned(),
        None => kernel.clone(),
    };
    let initrd = o.initrd.clone().unwrap_or_default();
    let mut guest = linux(&name, kernel, initrd, &o.append, o);
    guest.about = "the guest of --kernel".into();
    if let Some(n) = o.max_insns {
        guest.words.extend(["--max-insns".into(), n.to_string()]);
        guest.cut = true;
    }
    guest
}

fn linux(name: &str, kernel: String, initrd: String, append: &str, o: &BenchOptions) -> Guest {
    let mut words = vec!["--kernel".to_string(), kernel.clone()];
    if !initrd.is_empty() {
        words.extend(["--initrd".into(), initrd.clone()]);
    }
    if !append.is_empty() {
        words.extend(["--append".into(), append.into()]);
    }
    let rest = ["--memory", &o.memory, "--cpu", &o.cpu, "--device", EXIT];
    words.extend(rest.map(String::from));
    words.push("--no-reboot".into());
    Guest {
        name: name.into(),
        about: String::new(),
        words,
        kernel: Some(kernel),
        initrd,
        append: append.into(),
        ours: None,
        cut: false,
    }
}

/// Words as a shell would take them.
pub fn quoted(words: &[String]) -> String {
    let plain = |w: &str| {
        !w.is_empty()
            && w.chars()
                .all(|c| c.is_alphanumeric() || "-_=./:,+@".contains(c))
    };
    let quote = |w: &String| match plain(w) {
        true => w.clone(),
        false => format!("'{}'", w.replace('\'', r"'\''")),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        let words = ["a=b", "x y", "it's", ""].map(String::from);
        assert_eq!(quoted(&words), r"a=b 'x y' 'it'\''s' ''");
    }

    #[test]
    fn an_engine_twice_has_two_labels() {
        let list = engines(&["interp".into(), "interp".into()]).unwrap();
        assert_eq!(list[1].label, "interp#2");
        assert_eq!(list[1].kind, "interp");
        let error = engines(&["jit".into()]).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("jit") && e.contains("interp")));
    }
}
