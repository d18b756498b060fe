//! What the engine counts, as `--stats` shows it.

/// What the engine did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub retired_translated: u64,
    pub regions_requested: u64,
    pub regions_refused: u64,
    pub regions_postponed: u64,
    pub units_published: u64,
    pub units_stale_before_use: u64,
    pub units_killed: u64,
    pub cache_flushes: u64,
    pub guest_insns_compiled: u64,
    pub guest_insns_lowered: u64,
    pub compile_ns_foreground: u64,
    pub compile_ns_background: u64,
    pub entries: u64,
    pub entries_inside: u64,
    pub exits_link: u64,
    pub exits_indirect: u64,
    pub exits_stopped: u64,
    pub exits_look_up: u64,
    pub exits_fuel: u64,
    pub exits_mxcsr: u64,
    pub links_made: u64,
    pub pages_not_where_they_were: u64,
    pub units_rebound: u64,
    pub units_not_worth_it: u64,
    pub units_not_global: u64,
    pub units_in_vain: u64,
    pub units_misfit: u64,
}

impl Counters {
    /// Names and values, in the order of `--stats`.
    pub fn list(&self, code_bytes: usize) -> Vec<(&'static str, u64)> {
        vec![
            ("retired_translated", self.retired_translated),
            ("regions_requested", self.regions_requested),
            ("regions_refused", self.regions_refused),
            ("regions_postponed", self.regions_postponed),
            ("units_published", self.units_published),
            ("units_stale_before_use", self.units_stale_before_use),
            ("units_killed", self.units_killed),
            ("code_cache_flushes", self.cache_flushes),
            ("code_bytes", code_bytes as u64),
            ("guest_insns_compiled", self.guest_insns_compiled),
            ("guest_insns_lowered", self.guest_insns_lowered),
            ("compile_ns_foreground", self.compile_ns_foreground),
            ("compile_ns_background", self.compile_ns_background),
            ("unit_entries", self.entries),
            ("unit_entries_inside", self.entries_inside),
            ("unit_exits_link", self.exits_link),
            ("unit_exits_indirect", self.exits_indirect),
            ("unit_exits_stopped", self.exits_stopped),
            ("unit_exits_look_up", self.exits_look_up),
            ("unit_exits_fuel", self.exits_fuel),
            ("unit_exits_mxcsr", self.exits_mxcsr),
            ("links_made", self.links_made),
            ("units_rebound", self.units_rebound),
            ("units_not_worth_it", self.units_not_worth_it),
            ("units_in_vain", self.units_in_vain),
            ("units_misfit", self.units_misfit),
            ("units_not_global", self.units_not_global),
            ("pages_not_where_they_were", self.pages_not_where_they_were),
        ]
    }
}
