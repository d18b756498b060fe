//! Where options stand in a machine file: `[section]` and key, or `[[section]]` for those with properties of their own.

use clap::Arg;
use std::borrow::Cow;

/// What has another section than `[machine]`, by clap's id of the option: section, key.
const PLACES: &[(&str, &str, &str)] = &[
    ("machine", "machine", "type"),
    ("guest", "boot", "guest"),
    ("kernel", "boot", "kernel"),
    ("initrd", "boot", "initrd"),
    ("append", "boot", "append"),
    ("boot", "boot", "boot"),
    ("firmware", "boot", "firmware"),
    ("load_addr", "boot", "load-addr"),
    ("entry", "boot", "entry"),
    ("cpu", "cpu", "model"),
    ("engine", "cpu", "engine"),
    ("dbt_off", "cpu", "dbt-off"),
    ("dbt_only", "cpu", "dbt-only"),
    ("dbt_threshold", "cpu", "dbt-threshold"),
    ("code_cache", "cpu", "code-cache"),
    ("perf_map", "cpu", "perf-map"),
    ("display", "display", "display"),
    ("vga", "display", "vga"),
    ("qmp", "monitor", "qmp"),
    ("monitor", "monitor", "monitor"),
    ("paused", "monitor", "paused"),
    ("no_shutdown", "monitor", "no-shutdown"),
];

/// The keys that are a value's first word, which has none on the command line: `--device NAME,key=value`.
const HEADS: &[(&str, &str)] = &[("device", "driver"), ("audiodev", "driver")];
const HEAD: &str = "type";

/// Section and key of an option.
pub fn place(arg: &Arg) -> (&'static str, Cow<'static, str>) {
    let id = arg.get_id().as_str();
    match PLACES.iter().find(|p| p.0 == id) {
        Some((_, section, key)) => (section, (*key).into()),
        None => ("machine", id.replace('_', "-").into()),
    }
}

/// Every section with plain keys.
pub fn sections() -> Vec<&'static str> {
    let mut list = vec!["machine"];
    for (_, section, _) in PLACES {
        if !list.contains(section) {
            list.push(section);
        }
    }
    list
}

/// The key of the first word of an option's properties.
pub fn head(arg: &Arg) -> &'static str {
    let id = arg.get_id().as_str();
    HEADS.iter().find(|h| h.0 == id).map_or(HEAD, |h| h.1)
}
