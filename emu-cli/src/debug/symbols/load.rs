//! A file to modules: what kind of file it is, by its content.
//!
//! Only as much is read as is needed: the sections of an ELF file one by one (a kernel with debugging information has
//! gigabytes of them), a list or a compressed kernel as a whole, up to a limit.

use super::module::Module;
use super::{elf, linux, text};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// A list of symbols or a compressed kernel of more than this is something else.
const WHOLE: u64 = 256 << 20;

/// Where a relocatable file's sections are (`.text`, 0xffffffffc0001000), as `/sys/module/NAME/sections/` shows them. Sections that
/// are not named here follow each other behind the highest named one, or from 0.
pub type Layout = [(String, u64)];

/// Reads a file of symbols. The errors name the file.
pub fn load(path: &Path, layout: &Layout) -> Result<Vec<Module>, String> {
    let shown = path.display();
    let failed = |e: std::io::Error| format!("{shown}: {e}");
    let wrong = |e: String| format!("{shown}: {e}");
    // Opening a FIFO waits for a writer.
    let about = std::fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        let what = if about.is_dir() {
            "a directory"
        } else {
            "not a file"
        };
        return Err(format!(
            "{shown}: {what}; an ELF file or a System.map is expected"
        ));
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut start = Vec::new();
    file.by_ref()
        .take(4096)
        .read_to_end(&mut start)
        .map_err(failed)?;
    if start.is_empty() {
        return Err(format!("{shown}: the file is empty"));
    }
    let whole = |mut file: File| {
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        file.take(WHOLE + 1).read_to_end(&mut all).map_err(failed)?;
        if all.len() as u64 > WHOLE {
            return Err(format!("{shown}: more than {} MiB of it", WHOLE >> 20));
        }
        Ok(all)
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.replace(['!', ':', ' '], "_");
    let mut modules = if start.starts_with(b"\x7fELF") {
        vec![elf::load_file(file, path, &name, layout).map_err(wrong)?]
    } else if linux::is_bzimage(&start) {
        vec![linux::load_bzimage(&whole(file)?, "vmlinux").map_err(wrong)?]
    } else if elf::is_coff(&start) {
        vec![elf::load_file(file, path, &name, layout).map_err(wrong)?]
    } else {
        let line = String::from_utf8_lossy(&start);
        if !text::is_list(&line) {
            let line: String = line.lines().next().unwrap_or("").chars().take(60).collect();
            return Err(format!(
                "{shown}: neither an ELF or PE file nor a System.map: its first line is \"{}\"",
                line.escape_debug()
            ));
        }
        // A name in a list that is not UTF-8 is still a name.
        let all = whole(file)?;
        let list = String::from_utf8_lossy(&all);
        let name = if linux::is_kernel_list(&list) {
            "vmlinux"
        } else {
            &name
        };
        text::parse(&list, name).map_err(wrong)?
    };
    for m in &mut modules {
        m.path = Some(path.to_owned());
    }
    Ok(modules)
}
