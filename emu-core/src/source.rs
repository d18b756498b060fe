//! The text of the sources whose checks raise exceptions, as compiled (`build.rs`): what an
//! [`ExceptionRecord`](crate::vcpu::ExceptionRecord) names by file and line can be shown.

/// Names relative to this crate's folder, and texts.
pub static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// The text of a file by the name that the compiler gives it.
pub fn text(file: &str) -> Option<&'static str> {
    let root = file!().strip_suffix("src/source.rs")?;
    let name = file.strip_prefix(root)?;
    FILES.iter().find(|f| f.0 == name).map(|f| f.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_leads_to_its_line() {
        let mut cpu = crate::testing::vcpu("max", 1 << 20);
        let _: crate::fault::R = cpu.gp(0);
        let here = line!() - 1;
        let at = cpu.raised_at.unwrap();
        assert_eq!((at.file(), at.line()), (file!(), here));
        // Checks are elsewhere: `privileged` is in cpu/control.rs.
        cpu.cpl = 3;
        assert!(cpu.privileged().is_err());
        let at = cpu.raised_at.unwrap();
        let line = text(at.file()).unwrap().lines().nth(at.line() as usize - 1);
        assert!(line.unwrap().contains("self.cpl == 0"), "{line:?}");
        assert!(text("src/nothing.rs").is_none() && FILES.len() > 40);
    }
}
