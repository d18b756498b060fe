//! The screen drawn from a snapshot that is made up, and keys without a machine.

use super::draw::draw;
use super::keys::Key;
use super::snapshot::{Code, Memory, Registers, Screen, Snapshot, Watched, Word};
use super::ui::{Action, Pane, Ui};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Rect;

const BASE: u64 = 0xffff_ffff_8300_1000;

fn shot() -> Snapshot {
    let code = |n: u64, text: &str| Code {
        at: BASE + 4 * n,
        text: text.into(),
        ..Code::default()
    };
    let mut list: Vec<Code> = (0..40).map(|n| code(n, "nop")).collect();
    list[0].label = Some("start_kernel".into());
    list[1].text = "call   0xffffffff83002000 <set_task_stack_end_magic>".into();
    list[2].breakpoint = Some(true);
    list[3].breakpoint = Some(false);
    list[3].unit = true;
    let mut registers = Registers {
        rip: BASE + 4,
        rflags: 0x246,
        cr3: 0x1234_5000,
        segments: [0, 0x10, 0x18, 0, 0, 0x2b],
        ..Registers::default()
    };
    registers.gpr[0] = 0x1122_3344_5566_7788;
    registers.gpr[15] = 0xfeed;
    Snapshot {
        running: false,
        state: "debug",
        engine: "tiered",
        mode: "64-bit mode",
        bits: 64,
        cpl: 0,
        retired: 1_234_567,
        pc: BASE + 4,
        prompt: "(emu) ",
        top: BASE,
        cursor: BASE + 8,
        code: list,
        symbol: Some("start_kernel+0x8".into()),
        line: Some("main.c:932".into()),
        source: Some("char *command_line;".into()),
        registers,
        walk: vec!["PML4E  0x1ff at 0x000012345ff8: 0x0000000002a1d067 P W U A D".into()],
        memory: Memory {
            what: "what the instruction reads".into(),
            error: None,
            base: BASE,
            at: BASE,
            bytes: (0..=255).cycle().take(2000).collect(),
        },
        word: 8,
        stack: (0..40)
            .map(|n| Word {
                at: 0xffff_ffff_82a0_3f00 + 8 * n,
                value: (n != 3).then_some(BASE + n),
                symbol: (n == 1).then(|| "x86_64_start_kernel+0x6d".into()),
            })
            .collect(),
        calls: vec![
            "#0  start_kernel+0x4".into(),
            "#1  x86_64_start_kernel+0x6d".into(),
        ],
        points: vec!["1       breakpoint     keep y   0xffffffff83001008 <start_kernel+8>".into()],
        screen: Screen::Text(vec!["SeaBIOS".into(); 25]),
        ..Snapshot::default()
    }
}

fn ui(width: u16, height: u16) -> Ui {
    let mut ui = Ui::new(Rect::new(0, 0, width, height), true);
    let mut before = shot().registers;
    before.gpr[0] = 1;
    ui.stopped("breakpoint 1".into(), Some(before));
    ui.show(shot());
    ui.say("Breakpoint 1\n=> 0xffffffff83001004 <start_kernel+4>:\tcall   0xffffffff83002000");
    ui.serial
        .feed(b"Linux version 6.1\r\n[    0.000000] Command line: console=ttyS0\r\n");
    ui
}

/// The lines of the screen.
fn drawn(ui: &Ui) -> Vec<String> {
    let (width, height) = (ui.area.width, ui.area.height);
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, ui)).unwrap();
    let cells = terminal.backend().buffer().content();
    let rows = cells.chunks(usize::from(width).max(1));
    rows.map(|row| row.iter().map(|c| c.symbol()).collect())
        .collect()
}

#[track_caller]
fn contains(lines: &[String], wanted: &[&str]) {
    for text in wanted {
        let there = lines.iter().any(|l| l.contains(text));
        assert!(there, "\"{text}\" is not in\n{}", lines.join("\n"));
    }
}

#[test]
fn what_must_be_seen_fits_on_80x24() {
    let lines = drawn(&ui(80, 24));
    contains(
        &lines,
        &[
            "STOPPED: breakpoint 1",
            "64-bit mode  CPL 0  1,234,567 insns  tiered",
            "start_kernel:",
            "  => ffffffff83001004 call   0xffff",
            "*    ffffffff83001008 nop",
            "oU   ffffffff8300100c nop",
            "rax*1122334455667788",
            "rbx 0000000000000000",
            "r15 000000000000feed",
            "rip ffffffff83001004",
            "fl  --I--Z-P-",
            "cs 0010 ss 0018 ds 0000",
            "+008 ffffffff83001001 x86_64_start_kernel",
            "????????????????",
            "(emu) ",
            "Breakpoint 1",
            ">code start_kernel+0x8 main.c:932",
            "F7 step",
        ],
    );
    assert!(lines[23].starts_with("F1 help"));
}

#[test]
fn everything_at_once_on_140x45() {
    let lines = drawn(&ui(140, 45));
    contains(
        &lines,
        &[
            ">code",
            " registers",
            " memory 0xffffffff83001000 (what the instruction reads)",
            "00 01 02 03 04 05 06 07  08 09 0a",
            " stack ffffffff82a03f00",
            " calls",
            "#1  x86_64_start_kernel+0x6d",
            " breakpoints",
            " page walk ffffffff83001008",
            "PML4E  0x1ff at 0x000012345ff8: 0x0000000002a1d067 P W U A D",
            " serial",
            "Command line: console=ttyS0",
            "Breakpoint 1",
            "cr3 12345000",
        ],
    );
}

#[test]
fn code_of_16_bits_has_its_names() {
    let mut ui = ui(80, 24);
    let mut shot = shot();
    (shot.bits, shot.mode, shot.word) = (16, "real mode", 2);
    shot.registers.gpr[0] = 0xfff0;
    shot.registers.rip = 0x1004;
    shot.registers.gpr[3] = 0x1_0000;
    ui.before = None;
    ui.show(shot);
    contains(
        &drawn(&ui),
        &["ax  fff0", "ebx 00010000", "ip  1004", "real mode"],
    );
}

#[test]
fn segments_have_bases_where_they_count() {
    let mut ui = ui(140, 45);
    let mut shot = shot();
    shot.registers.bases = [0, 0x7c00, 0x10, 0, 0, 0xb8000];
    ui.before = Some(shot.registers.clone());
    ui.show(shot.clone());
    contains(
        &drawn(&ui),
        &[
            "cs 0010 ss 0018 ds 0000 es 0000",
            "gs 002b base 00000000000b8000",
        ],
    );
    shot.bits = 32;
    ui.show(shot);
    contains(
        &drawn(&ui),
        &[
            "cs 0010 base 00007c00  ss 0018 base 00000010",
            "fs 0000 base 00000000  gs 002b base 000b8000",
        ],
    );
}

#[test]
fn no_size_is_too_small_or_too_large() {
    for height in 1..=60 {
        for width in 1..=200 {
            drawn(&ui(width, height));
        }
    }
    let focus = [
        Pane::Command,
        Pane::Serial,
        Pane::Memory,
        Pane::Screen,
        Pane::Walk,
    ];
    for height in (1..=60).step_by(3) {
        for width in (1..=200).step_by(7) {
            for pane in focus {
                let mut ui = ui(width, height);
                (ui.focus, ui.lower) = (
                    pane,
                    if pane == Pane::Command {
                        Pane::Calls
                    } else {
                        pane
                    },
                );
                ui.zoomed = width % 2 == 0;
                ui.help = height % 2 == 0;
                ui.editor.set(&"a long line ".repeat(30));
                let ask = ui.ask();
                assert!(ask.memory_bytes <= 200 * 60 && ask.rows <= 60);
                drawn(&ui);
                ui.show(Snapshot::default());
                drawn(&ui);
            }
        }
    }
}

#[test]
fn panes_take_turns() {
    let mut ui = ui(80, 24);
    for (n, (key, wanted)) in [
        ('1', "00 01 02 03 04 05 06 07"),
        ('3', "PML4E"),
        ('4', "keep y"),
        ('5', "#1  x86_64_start_kernel"),
        ('7', "SeaBIOS"),
        ('6', "Linux version 6.1"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(ui.key(Key::Char(key)), Action::Draw, "{n}");
        contains(&drawn(&ui), &[wanted]);
    }
    // Now keys are the guest's.
    assert_eq!(ui.key(Key::Char('s')), Action::Guest(b"s".to_vec()));
    assert_eq!(ui.key(Key::Ctrl('c')), Action::Guest(vec![3]));
    assert_eq!(ui.key(Key::F(6)), Action::Stop);
    assert_eq!(ui.key(Key::Ctrl('a')), Action::Draw);
    assert_eq!(ui.key(Key::Char('s')), Action::Press("stepi".into()));
    for wanted in [Pane::Serial, Pane::Command, Pane::Code] {
        ui.key(Key::BackTab);
        if wanted == Pane::Serial {
            assert_eq!(ui.focus, Pane::Command);
            ui.key(Key::BackTab);
            assert_eq!(ui.focus, Pane::Serial);
            ui.key(Key::Ctrl('a'));
        }
    }
}

#[test]
fn keys_ask_for_what_they_say() {
    let mut ui = ui(80, 24);
    let at = ui.shot.cursor;
    for (key, wanted) in [
        (Key::F(5), Action::Press("continue".into())),
        (Key::F(7), Action::Press("stepi".into())),
        (Key::F(8), Action::Press("nexti".into())),
        (Key::F(9), Action::Toggle(at)),
        (Key::F(4), Action::Press(format!("until *{at:#x}"))),
        (Key::Char('c'), Action::Press("continue".into())),
        (Key::Ctrl('l'), Action::Redraw),
    ] {
        assert_eq!(ui.key(key), wanted);
    }
    ui.shot.running = true;
    assert_eq!(ui.key(Key::F(7)), Action::Draw);
    contains(&drawn(&ui), &["The guest runs: F6 stops it.", "RUNNING"]);
    assert_eq!(ui.key(Key::Ctrl('c')), Action::Stop);
    ui.key(Key::Char('q'));
    contains(&drawn(&ui), &["End the guest and emu? (y or n)"]);
    assert_eq!(ui.key(Key::Char('n')), Action::Draw);
    ui.key(Key::Char('q'));
    assert_eq!(ui.key(Key::Char('y')), Action::Quit);
}

#[test]
fn the_command_line() {
    let mut ui = ui(80, 24);
    let typed = |ui: &mut Ui, text: &str| {
        for c in text.chars() {
            assert_eq!(ui.key(Key::Char(c)), Action::Draw);
        }
    };
    typed(&mut ui, "info reg");
    contains(&drawn(&ui), &["(emu) info reg"]);
    assert_eq!(ui.key(Key::Tab), Action::Complete("info reg".into()));
    ui.complete(5, &["registers".into()]);
    assert_eq!(
        ui.key(Key::Enter),
        Action::Execute("info registers ".into())
    );
    // It was typed from the code, where the keys are again.
    assert_eq!(ui.focus, Pane::Code);
    typed(&mut ui, ":b start_");
    ui.complete(2, &["start_kernel".into(), "start_thread".into()]);
    contains(&drawn(&ui), &["start_kernel  start_thread"]);
    assert_eq!(ui.key(Key::Escape), Action::Draw);
    assert_eq!(ui.key(Key::Char('g')), Action::Draw);
    assert_eq!(ui.editor.text(), "goto ");
    ui.key(Key::Escape);
    typed(&mut ui, ":mem $rsp + 8");
    assert_eq!(ui.key(Key::Enter), Action::Draw);
    assert_eq!(ui.memory, Watched::Expr("$rsp + 8".into()));
    assert!(ui.ask().memory_bytes > 0);
    // A line that is collected for a breakpoint is the debugger's.
    ui.shot.prompt = ">";
    typed(&mut ui, ":mem");
    assert_eq!(ui.key(Key::Enter), Action::Execute("mem".into()));
}

#[test]
fn what_is_said_is_bounded_and_printable() {
    let mut ui = ui(80, 24);
    for n in 0..5000 {
        ui.say(&format!("{n}\t\x1b[31m{}", "x".repeat(3000)));
    }
    let last: Vec<&String> = ui.messages(10_000).collect();
    assert_eq!(last.len(), 2000);
    assert!(last[1999].starts_with("4999    .[31mxxx") && last[1999].len() < 1100);
    ui.focus = Pane::Command;
    ui.key(Key::PageUp);
    let shown: Vec<&String> = ui.messages(2).collect();
    assert!(shown[1].starts_with("4994"), "{}", &shown[1][..8]);
}

#[test]
fn scrolling_is_asked_of_the_machine() {
    let mut ui = ui(80, 24);
    ui.key(Key::Down);
    ui.key(Key::Down);
    let ask = ui.ask();
    assert!(!ask.follow);
    // Each key is followed by a look, which begins anew.
    ui.show(shot());
    ui.key(Key::PageUp);
    let rows = ui.ask().rows;
    assert_eq!(rows, 10);
    ui.key(Key::Char('1'));
    ui.key(Key::Down);
    assert_eq!(ui.ask().memory_bytes, 5 * 8);
    ui.key(Key::Home);
    assert!(ui.ask().follow);
}
