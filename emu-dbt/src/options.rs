//! What the translator may do: one switch per optimisation, a sentence each.

/// (name, what it does and why it is safe), in the order of the ablation table.
pub const SWITCHES: &[(&str, &str)] = &[
    (
        "region",
        "Translate loops, branches and calls around a hot block as one unit; without it, one block at a time.",
    ),
    (
        "inline-calls",
        "Follow a hot call into its callee within the region; the return goes on inside if it returns where it was called from.",
    ),
    (
        "guess",
        "Recursion and indirect branches stay in the region: the target is compared with where the profile saw them go.",
    ),
    (
        "entries",
        "A unit can be entered where the calls that it makes return to, and at its loops; without it, only where it begins.",
    ),
    (
        "apart",
        "A unit whose pages keep lying elsewhere (the same library in another program) is compiled again without them; without it, its code stays interpreted there.",
    ),
    (
        "share",
        "Regions end where a larger unit begins or where the code is in several units already: compiling is what costs most.",
    ),
    (
        "link",
        "Units jump to each other through links that hold while the address space's epoch does; without it, each exit returns to the dispatcher.",
    ),
    (
        "jump-cache",
        "Indirect branches and returns look up their target's unit in a table by address; a wrong or stale entry never matches.",
    ),
    (
        "lower",
        "Common instructions become host instructions; without it, every instruction calls its interpreter handler.",
    ),
    (
        "lower-vec",
        "SSE, AVX and FMA instructions become host vector instructions where the result is bit-identical: all but MMX, gathers, masked moves, text, cryptography, half precision and estimates (RCP, RSQRT).",
    ),
    (
        "x87",
        "x87 instructions run in line, computing on the host's x87, where all registers are as they should be and nothing new is signalled; the others call their handlers.",
    ),
    (
        "inline-tlb",
        "Memory accesses probe the shadow TLB in line; without it, each calls the memory helper.",
    ),
    (
        "one-probe",
        "Accesses of a block through one register share a TLB probe while they stay on its page; nothing between them can change a mapping.",
    ),
    (
        "loop-pages",
        "A small loop carries the pages of its accesses from one iteration to the next; an aligned access there needs no probe.",
    ),
    (
        "flag-elim",
        "Flags are kept as operands of the instruction that set them, and computed only where they are read or leave the unit.",
    ),
    (
        "bare",
        "Units preserve no host registers for each other; the way in saves them once.",
    ),
    (
        "background",
        "Compile on a thread of its own while the guest goes on in the interpreter.",
    ),
];

/// The switches as the translator asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    on: u32,
    /// Executions of a block until it counts as hot.
    pub threshold: u32,
    /// Instructions in a region at most.
    pub region_insns: u32,
    /// Bytes of host code at most.
    pub code_cache: usize,
    /// Check the IR and the registers' bookkeeping (tests).
    pub verify: bool,
}

/// A name that is no switch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("--dbt-off/--dbt-only: {name} is no switch; there are {known}")]
pub struct UnknownSwitch {
    pub name: String,
    pub known: String,
}

macro_rules! switches {
    ($($f:ident = $n:literal),*) => {
        $(pub fn $f(&self) -> bool { self.is_on($n) })*
    };
}

impl Options {
    switches! {
        region = "region", inline_calls = "inline-calls", guess = "guess", entries = "entries", apart = "apart", share = "share", link = "link", jump_cache = "jump-cache", lower = "lower",
        lower_vec = "lower-vec", x87 = "x87", inline_tlb = "inline-tlb", one_probe = "one-probe", loop_pages = "loop-pages", flag_elim = "flag-elim", bare = "bare", background = "background"
    }

    /// For `--engine tiered`.
    pub fn tiered() -> Self {
        Self {
            on: u32::MAX,
            threshold: 1000,
            region_insns: 300,
            code_cache: 128 << 20,
            verify: false,
        }
    }

    /// For `--engine dbt`: translates everything at first sight, and waits for it.
    pub fn everything() -> Self {
        let mut o = Self {
            threshold: 1,
            // Nothing is known of what is hot, so few neighbours are taken.
            region_insns: 24,
            ..Self::tiered()
        };
        o.set("background", false);
        o
    }

    fn bit(name: &str) -> Option<u32> {
        SWITCHES
            .iter()
            .position(|(n, _)| *n == name)
            .map(|n| 1 << n)
    }

    fn is_on(&self, name: &str) -> bool {
        Self::bit(name).is_some_and(|b| self.on & b != 0)
    }

    /// Turns one switch; an unknown name does nothing.
    pub fn set(&mut self, name: &str, on: bool) {
        if let Some(b) = Self::bit(name) {
            self.on = if on { self.on | b } else { self.on & !b };
        }
    }

    fn mask<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u32, UnknownSwitch> {
        names.into_iter().try_fold(0, |m, name| {
            Self::bit(name).map(|b| m | b).ok_or_else(|| UnknownSwitch {
                name: name.to_owned(),
                known: SWITCHES.map_names(),
            })
        })
    }

    /// `--dbt-off`.
    pub fn off<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), UnknownSwitch> {
        self.on &= !Self::mask(names)?;
        Ok(())
    }

    /// `--dbt-only`.
    pub fn only<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), UnknownSwitch> {
        self.on &= Self::mask(names)?;
        Ok(())
    }
}

trait Names {
    fn map_names(&self) -> String;
}

impl Names for [(&str, &str)] {
    fn map_names(&self) -> String {
        self.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_turn_by_name_and_unknown_ones_are_refused() {
        let mut o = Options::tiered();
        o.off(["link", "region"]).unwrap();
        assert!(!o.link() && !o.region() && o.lower());
        o.only(["lower"]).unwrap();
        assert!(o.lower() && !o.inline_tlb());
        let e = o.off(["chian"]).unwrap_err();
        assert!(
            e.to_string()
                .contains("chian is no switch; there are region, ")
        );
    }
}
