//! What may be compared, and what a page must hold.

use super::*;
use std::time::Duration;

fn guest() -> Guest {
    let o = BenchOptions {
        quick: true,
        only: vec!["integer".into()],
        engines: Vec::new(),
        rounds: None,
        out: ".".into(),
        no_ablation: false,
        kernel: None,
        initrd: None,
        append: String::new(),
        max_insns: None,
        memory: "512M".into(),
        cpu: "max".into(),
        vs: Vec::new(),
        guests: "out".into(),
        from: None,
    };
    plan::guests(&o).unwrap().0.remove(0)
}

fn engine(label: &str) -> Engine {
    Engine {
        label: label.into(),
        kind: label.into(),
        off: Vec::new(),
    }
}

fn run(retired: u64, state: u64, line: &str, exit: &str) -> Run {
    Run {
        wall: Duration::from_millis(retired),
        retired,
        state,
        exit: exit.into(),
        marks: vec![(line.into(), Duration::ZERO)],
        timeline: vec![
            (Duration::from_millis(5), retired / 2),
            (Duration::from_millis(8), retired),
        ],
        stats: Vec::new(),
    }
}

#[test]
fn runs_that_differ_are_refused() {
    let (guest, good) = (guest(), run(100, 7, "@done integer 1", "debug-exit 0"));
    let line = |other: &Run| {
        let e = agree(&guest, ("interp", &good), ("tiered", other)).unwrap_err();
        assert_eq!(e.status().code(), 1);
        e.to_string()
    };
    let text = line(&run(101, 7, "@done integer 1", "debug-exit 0"));
    assert!(text.contains("integer: interp and tiered differ"), "{text}");
    assert!(text.contains("100 and 101 instructions"), "{text}");
    let text = line(&run(100, 8, "@done integer 1", "debug-exit 0"));
    assert!(text.contains("0000000000000008"), "{text}");
    assert!(line(&run(100, 7, "@done integer 2", "debug-exit 0")).contains("marker"));
    assert!(line(&run(100, 7, "@done integer 1", "reset")).contains("reset"));
    assert!(agree(&guest, ("interp", &good), ("interp#2", &good)).is_ok());
}

#[test]
fn a_workload_that_finds_its_sum_wrong_is_refused() {
    let bad = run(100, 7, "@bad integer 1", "debug-exit 1");
    let e = check(&guest(), &engine("interp"), &bad).unwrap_err();
    assert_eq!(e.status().code(), 1);
    assert!(e.to_string().contains("@bad integer 1"), "{e}");
}

#[test]
fn a_page_has_every_plot_and_escapes_what_it_was_given() {
    let rounds = |ms: u64| vec![run(ms, 7, "@done integer 1", "debug-exit 0")];
    let (slow, fast) = (rounds(80), rounds(20));
    let engines = [("interp", &slow, None), ("tiered", &fast, Some(&slow[..]))];
    let report = Report {
        host: host::Host::now("emu bench --only '<integer>'".into()),
        quick: true,
        rounds: 1,
        engines: vec!["interp".into(), "tiered".into()],
        workloads: vec![WorkloadReport {
            name: "integer".into(),
            about: "sums & products".into(),
            retired: 80,
            state_hash: "7".into(),
            exit: "debug-exit 0".into(),
            engines: engines
                .into_iter()
                .filter_map(|(name, rounds, base)| measured(name, "emu run".into(), rounds, base))
                .collect(),
            rivals_timed: "@init to @done".into(),
            marked_seconds: vec![0.02],
            rivals: vec![Rival {
                name: "qemu".into(),
                command: "qemu -x <y>".into(),
                seconds: vec![0.03],
                ours_faster: Spread::of([1.5]).unwrap(),
            }],
        }],
        left_out: Vec::new(),
        ablation_of: Some("tiered".into()),
        ablation_rounds: 1,
        ablation: vec![report::Ablation {
            name: "chain".into(),
            sentence: "Units jump to each other.".into(),
            slowdown: vec![report::Part {
                name: "integer".into(),
                value: 2.0,
            }],
            geomean: 2.0,
        }],
    };
    let speedup = report.workloads[0].engines[1].speedup.unwrap();
    assert!((speedup.median - 4.0).abs() < 1e-9, "80 ms by 20 ms");
    let page = html::page(&report);
    for words in [
        "Speed-up by workload and engine",
        "Speed over time: integer",
        "share of the run&#39;s time",
        "What each optimisation contributes",
        "Units jump to each other.",
        "Side by side",
        "qemu -x &lt;y&gt;",
        "sums &amp; products",
        "<b>4.00×</b>",
    ] {
        assert!(page.contains(words), "{words} is missing");
    }
    assert!(!page.contains("<integer>") && !page.contains("http"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    let text = table::text(&report);
    assert!(
        text.contains("4.00 (4.00 .. 4.00)") && text.contains("without chain"),
        "{text}"
    );
}
