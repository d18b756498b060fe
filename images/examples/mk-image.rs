//! `mk-image NAME OUT` writes one of our guests as a Multiboot image; without arguments it lists them.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, out] = &args[..] else {
        for (name, _) in emu_images::all() {
            println!("{name}");
        }
        return if args.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        };
    };
    let Some((_, make)) = emu_images::all().find(|(n, _)| n == name) else {
        eprintln!("mk-image: no image is called {name} (without arguments, all are listed)");
        return ExitCode::from(2);
    };
    if let Err(e) = std::fs::write(out, make()) {
        eprintln!("mk-image: {out}: {e}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
