//! What cannot be booted: one line on standard error, a documented status, no panic.

mod common;

use common::*;

/// Runs, and gives the line; the run must have ended with `code`, and quickly.
fn one_line(args: &[&str], code: i32) -> String {
    let out = run(&[args, &["--timeout", "20"]].concat());
    let line = stderr(&out);
    assert_eq!(status(&out), code, "{args:?}: {line}");
    assert!(
        line.starts_with("emu: ") && line.ends_with('\n') && line.lines().count() == 1,
        "{args:?}: {line}"
    );
    assert_eq!(stdout(&out), "", "{args:?}");
    line
}

/// A bzImage's setup, as far as it matters, with 4 KiB of kernel.
fn bzimage() -> Vec<u8> {
    let mut b = vec![0; 1024 + 4096];
    b[0x1f1] = 1;
    b[0x1f4..0x1f6].copy_from_slice(&256u16.to_le_bytes());
    b[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    b[0x201] = 0x6a;
    b[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    b[0x211] = 1;
    b[0x22c..0x230].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
    b[0x236] = 1;
    b[0x238] = 64;
    b
}

#[test]
fn kernels() {
    let whole = bzimage();
    for (bytes, words) in [
        (&b""[..], "empty"),
        (&whole[..100], "not a guest image"),
        (&whole[..0x230], "truncated"),
        (&whole[..4000], "truncated"),
        (b"070701 a cpio archive", "not a guest image"),
        (b"\x7fELF\x02\x01\x01\0 and no more", "ELF"),
    ] {
        let file = Temp::new(bytes);
        let line = one_line(&["--kernel", file.path()], 2);
        assert!(line.contains(words) && line.contains(file.path()), "{line}");
    }
    assert!(one_line(&["/nonexistent"], 2).contains("/nonexistent: No such file"));
    assert!(one_line(&["/"], 2).contains("directory"));
    assert!(one_line(&["/dev/zero", "-m", "1M"], 2).contains("larger than"));
    assert!(one_line(&[], 2).contains("--kernel"));
    assert!(one_line(&["demo", "--load-addr", "0"], 2).contains("--load-addr"));
}

#[test]
fn initrds_and_command_lines() {
    let kernel = Temp::new(&bzimage());
    let big = Temp::new(&vec![1; 3 << 20]);
    let k = ["-m", "4M", "--kernel", kernel.path()];
    let with = |more: &[&str]| one_line(&[&k, more].concat(), 2);
    assert!(with(&["--initrd", big.path()]).contains("give more --memory"));
    assert!(with(&["--initrd", "/nonexistent"]).contains("No such file"));
    assert!(with(&["--initrd", Temp::new(b"").path()]).contains("empty"));
    assert!(with(&["--append", &"x".repeat(65)]).contains("takes 64"));
    assert!(with(&["--cpu", "486"]).contains("long mode"));
    assert!(one_line(&["-m", "1M", "--kernel", kernel.path()], 2).contains("--memory"));
    let sector = exit_with(0);
    assert!(one_line(&[sector.path(), "--append", "x"], 2).contains("command line"));
}

#[cfg(not(feature = "window"))]
#[test]
fn a_window_has_to_be_built() {
    let line = one_line(&["demo", "--display", "window"], 2);
    for words in ["--features window", "terminal, vnc or web"] {
        assert!(line.contains(words), "{line}");
    }
    let file = Temp::new(b"[display]\ndisplay = [\"none\", \"window\"]\n");
    let toml = Temp(file.0.with_extension("toml"));
    std::fs::copy(&file.0, &toml.0).unwrap();
    let line = one_line(&[toml.path()], 2);
    let place = format!("{}:2: ", toml.path());
    assert!(
        line.contains(&place) && line.contains("--features window"),
        "{line}"
    );
}

#[test]
fn option_values() {
    for (args, words) in [
        (&["--memory", "0"][..], "at least 1M"),
        (&["--memory", "-5"], "512M"),
        (&["--memory", "100T"], "at most"),
        (&["--display", "windw"], "did you mean window?"),
        (&["--memory", "lots"], "512M"),
        (&["--memory", "1M"], "more --memory"),
        (&["--memory", "8G", "--cpu", "486"], "address bits"),
        (&["--cpu", "k6"], "unknown CPU model \"k6\""),
        (&["--cpu", "pentum"], "did you mean pentium?"),
        (&["--cpu", "max,-sse5"], "did you mean sse"),
        (
            &["--device", "isa-debug-exti"],
            "did you mean isa-debug-exit?",
        ),
        (&["--cpu", "max,+warp"], "unknown CPU feature \"warp\""),
        (&["--cpu", "max,sse"], "+ or -"),
        (&["--device", "vga"], "unknown device \"vga\""),
        (&["--device", "isa-debug-exit,iobase=0x60"], "8042"),
        (&["--device", "e1000,netdev=n0"], "--netdev user,id=n0"),
        (&["--netdev", "usr,id=n0"], "did you mean user?"),
        (&["--nic", "user,hostfwd=tcp:2222"], "hostfwd=tcp:2222"),
        (&["--nic", "user,hostfdw=x"], "did you mean hostfwd?"),
        (&["--nic", "user,model=ne2000"], "unknown device \"ne2000\""),
        (&["--engine", "magic"], "interp"),
        (&["--clock", "sundial"], "virtual"),
        (&["--serial", "pigeon"], "file:PATH"),
        (&["--stats=xml"], "json"),
        (&["--timeout", "-1"], "above 0"),
        (&["--max-insns", "0"], "at least 1"),
        (&["--no-such-option"], "--no-such-option"),
        (&["--kernel", "x"], "cannot be used with"),
    ] {
        let line = one_line(&[&["demo"], args].concat(), 2);
        assert!(line.contains(words), "{args:?}: {line}");
    }
}

#[test]
fn a_port_that_is_taken() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let nic = format!("user,hostfwd=tcp:{taken}-:22");
    let line = one_line(&["demo", "--nic", &nic], 4);
    assert!(line.contains(&taken), "{line}");
}

#[test]
fn outputs_that_fail() {
    assert!(one_line(&["demo", "--serial", "file:/nonexistent/x"], 4).contains("/nonexistent/x"));
    let out = run(&["demo", "--stats=json:/nonexistent/x"]);
    assert_eq!(status(&out), 4);
    assert!(stderr(&out).contains("/nonexistent/x"));
    // A disk that is full.
    assert!(one_line(&["demo", "--serial", "file:/dev/full"], 4).contains("No space left"));
}
