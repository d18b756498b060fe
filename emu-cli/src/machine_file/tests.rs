use super::*;
use crate::args::Cli;

fn run_command() -> Command {
    let mut program = Cli::command();
    program.build();
    program.find_subcommand("run").unwrap().clone()
}

/// An option with a value that its reader takes.
fn sample(arg: &Arg) -> Vec<&'static str> {
    match arg.get_id().as_str() {
        "guest" => vec!["a b.img"],
        "memory" => vec!["1G"],
        "cpu" => vec!["pentium3,-sse"],
        "engine" => vec!["interp"],
        "clock" => vec!["virtual"],
        "append" => vec!["root=/dev/sda \"quoted\" \\ -- =,", "-x"],
        "code_cache" => vec!["64M"],
        "serial" | "debugcon" => vec!["null", "file:/tmp/a,b"],
        "device" => vec!["isa-debug-exit,iobase=0xf4,iosize=4", "isa-debug-exit"],
        "qmp" | "monitor" => vec!["unix:/tmp/a", "tcp:127.0.0.1:4444,server=on"],
        "stats" => vec!["text", "json:/tmp/x"],
        "drive" => vec!["file=a,,b.img,if=ide,readonly=on", "file=,media=cdrom"],
        "boot" => vec!["order=cd,menu=on", "c"],
        "load_addr" | "entry" | "max_insns" | "dbt_threshold" => vec!["0x1000"],
        "timeout" => vec!["2.5"],
        "dbt_off" | "dbt_only" => vec!["link,x87"],
        // A new option: its possible values, or a word.
        id => {
            let possible = arg.get_possible_values();
            match possible.first() {
                Some(v) => vec![Box::leak(v.get_name().to_string().into_boxed_str())],
                None if is_switch(arg) => vec![""],
                None => vec![match id {
                    "netdev" => "user,id=n0",
                    "nic" => "user",
                    "display" => "none",
                    _ => "word",
                }],
            }
        }
    }
}

fn setting(arg: &Arg, value: &str) -> Setting {
    Setting {
        id: arg.get_id().as_str().into(),
        value: (!is_switch(arg)).then(|| value.into()),
        line: 0,
    }
}

fn forget_lines(mut settings: Settings) -> Settings {
    settings.0.iter_mut().for_each(|s| s.line = 0);
    settings.0.sort_by(|a, b| a.id.cmp(&b.id));
    settings
}

/// Every option, each with every sample: through the command line's form and the file's and back, nothing is changed.
#[test]
fn every_option_goes_round() {
    let command = run_command();
    let mut count = 0;
    for arg in options(&command) {
        for value in sample(arg) {
            let settings = Settings(vec![setting(arg, value)]);
            let text = settings.text(&command).unwrap();
            let read = Settings::parse(&command, &text, "x.toml");
            let read = read.unwrap_or_else(|e| panic!("{}: {e:?}\n{text}", arg.get_id()));
            assert_eq!(forget_lines(read), settings, "{text}");
            let line = ["emu".into(), "run".into()];
            let line = line.into_iter().chain(settings.arguments(&command));
            let alone = Cli::command().try_get_matches_from(line);
            // What needs another option is refused alone, and then says so.
            match alone {
                Ok(matches) => {
                    let given = Settings::given(&command, matches.subcommand().unwrap().1);
                    assert_eq!(given, settings, "{text}");
                    count += 1;
                }
                Err(e) => assert!(
                    matches!(
                        e.kind(),
                        ErrorKind::MissingRequiredArgument | ErrorKind::ValueValidation
                    ),
                    "{e}"
                ),
            }
        }
    }
    assert!(count > 40, "{count}");
}

/// All at once, lists with two values.
#[test]
fn all_together() {
    let command = run_command();
    let mut settings = Settings::default();
    for arg in options(&command) {
        let values = sample(arg);
        let most = if is_list(arg) { values.len() } else { 1 };
        settings
            .0
            .extend(values[..most].iter().map(|v| setting(arg, v)));
    }
    let text = settings.text(&command).unwrap();
    let read = forget_lines(Settings::parse(&command, &text, "x.toml").unwrap());
    assert_eq!(read, forget_lines(settings), "{text}");
    for part in [
        "[machine]\n",
        "\n[[drive]]\nfile = \"a,b.img\"\n",
        "\n[cpu]\nmodel = ",
        "serial = [\"null\", ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn mistakes_have_their_line_and_the_nearest_name() {
    let command = run_command();
    for (text, want) in [
        (
            "[machine]\n\nmemroy = 1",
            "x.toml:3: unknown key of [machine] \"memroy\": did you mean memory?",
        ),
        (
            "[machin]\n",
            "x.toml:1: unknown section \"machin\": did you mean machine?",
        ),
        (
            "[machine]\nmodel = \"486\"",
            "x.toml:2: model belongs in [cpu]",
        ),
        ("memory = \"1G\"", "x.toml:1: memory belongs in [machine]"),
        (
            "xyz = 1",
            "x.toml:1: \"xyz\" is in no section: begin with [machine] or another",
        ),
        (
            "[machine]\nno-reboot = 1",
            "x.toml:2: no-reboot is true or false",
        ),
        (
            "[machine]\nmemory = [1]",
            "x.toml:2: memory takes a text or a number",
        ),
        (
            "[drive]\nfile = \"a\"",
            "x.toml:1: [drive] can be there several times: write [[drive]]",
        ),
        (
            "[[drive]]\nfile = [1]",
            "x.toml:2: file takes a text, a number, true or false",
        ),
        (
            "[machine]\nmemory = 1\nmemory = 2",
            "x.toml:3: duplicate key",
        ),
    ] {
        match Settings::parse(&command, text, "x.toml") {
            Err(Mistake::File(line)) => assert_eq!(line, want),
            other => panic!("{text}: {other:?}"),
        }
    }
    for broken in [
        "[machine",
        "a = ",
        "\u{0}",
        "[[machine]]\nmemory = 1",
        "[machine]\nmemory = \"",
        "'",
    ] {
        let read = Settings::parse(&command, broken, "x.toml");
        assert!(matches!(read, Err(Mistake::File(_))), "{broken}: {read:?}");
    }
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(Settings::parse(&command, &deep, "x.toml").is_err());
}

fn parse_with(file: &str, args: &[&str]) -> Result<ArgMatches, Mistake> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("emu-machine-{}-{n}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, file).unwrap();
    let line = ["emu", "run", path.to_str().unwrap()]
        .into_iter()
        .chain(args.iter().copied());
    let done = parse::<Cli>(line.map(OsString::from));
    std::fs::remove_file(&path).unwrap();
    match done {
        Ok(Cli {
            command: crate::args::Command::Run(options),
        }) => {
            // What the test looks at.
            let line = format!(
                "{} {} {:?} {:?}",
                options.memory >> 20,
                options.cpu,
                options.guest,
                options.serials()
            );
            Err(Mistake::Write(line))
        }
        Ok(_) => unreachable!(),
        Err(e) => Err(e),
    }
}

#[test]
fn the_command_line_wins_and_lists_add_up() {
    let file = "[machine]\nmemory = 1073741824\nserial = [\"null\"]\n[cpu]\nmodel = \"486\"\n[boot]\nguest = \"demo\"\n";
    let seen = |args: &[&str]| match parse_with(file, args) {
        Err(Mistake::Write(line)) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(seen(&[]), "1024 486 Some(\"demo\") [Null]");
    assert_eq!(
        seen(&["--memory", "64M", "--serial", "stdio"]),
        "64 486 Some(\"demo\") [Null, Stdio]"
    );
}

#[test]
fn a_value_that_its_option_refuses() {
    for (file, words) in [
        ("\n[machine]\nmemory = \"lots\"", [":3: ", "lots"]),
        ("[machine]\nserial = [\"null\", \"pipe\"]", [":2: ", "pipe"]),
        (
            "\n\n[[drive]]\nfile = \"a\"\nformt = \"raw\"",
            [":3: ", "did you mean format"],
        ),
        (
            "[boot]\nkernel = \"a\"\nguest = \"b\"",
            ["", "cannot be used with"],
        ),
    ] {
        match parse_with(file, &[]) {
            Err(Mistake::File(line)) => {
                assert!(words.iter().all(|w| line.contains(w)), "{line}");
                assert_eq!(line.lines().count(), 1);
            }
            other => panic!("{file}: {other:?}"),
        }
    }
}
