//! Puts the sources whose checks raise exceptions into the program as text, so that a debugger can show the check that raised one.
//!
//! They are included by the compiler from the very files that it compiles, so that a line number always fits its text.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where guests' faults are raised.
const PLACES: [&str; 5] = ["cpu", "decode", "interp", "mem", "vcpu.rs"];

/// All `.rs` files below a path but tests.
fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    if name == "tests" || name.ends_with("_tests") {
        return;
    }
    match std::fs::read_dir(path) {
        Ok(dir) => dir.flatten().for_each(|e| sources(&e.path(), found)),
        Err(_) if path.extension().is_some_and(|e| e == "rs") => found.push(path.into()),
        Err(_) => {}
    }
}

fn main() {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut found = Vec::new();
    for place in PLACES {
        sources(&root.join("src").join(place), &mut found);
        println!("cargo::rerun-if-changed=src/{place}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    found.sort();
    let mut table = String::from("&[\n");
    for file in &found {
        let name = file.strip_prefix(&root).unwrap_or(file);
        let _ = writeln!(table, "    ({name:?}, include_str!({file:?})),");
    }
    table += "]\n";
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("sources.rs"), table).expect("the output folder can be written to");
}
