//! The engines under test, by name: every vector, every random instruction and every random machine runs on all of them.
//!
//! The translator runs with everything on, with everything off, and with each switch off in turn ([`EACH_OFF`]), each time
//! translating at first sight and with Cranelift's verifier; a region that does not compile is a panic. `tiered` is what users
//! get, except that code is hot when it runs for the second time: which units exist then depends on the host's threads, and
//! must not matter.

use emu_core::engine::Engine;
use emu_core::interp::Interp;
use emu_dbt::{Dbt, Options};

/// An engine, and how to make a new one.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    pub make: fn() -> Box<dyn Engine>,
}

/// What the others are compared with.
pub const REFERENCE: Variant = Variant {
    name: "interp",
    make: || Box::new(Interp::default()),
};

/// Everything translated at first sight, every optimisation on.
pub const DBT: Variant = Variant {
    name: "dbt",
    make: || checked(Options::everything()),
};

/// No optimisation at all: each instruction calls its handler.
pub const ALL_OFF: Variant = Variant {
    name: "dbt, all off",
    make: || {
        let mut o = Options::everything();
        o.only([]).expect("no name is unknown");
        checked(o)
    },
};

/// The background thread, and code that is hot at once.
pub const TIERED: Variant = Variant {
    name: "tiered",
    make: || {
        let mut o = Options::tiered();
        o.threshold = 2;
        checked(o)
    },
};

macro_rules! each_off {
    ($($switch:literal),*) => {
        &[$(Variant {
            name: concat!("dbt without ", $switch),
            make: || {
                let mut o = Options::everything();
                o.off([$switch]).expect("a switch");
                checked(o)
            },
        }),*]
    };
}

/// The translator with one switch off (`background` is off in all of them).
pub const EACH_OFF: &[Variant] = each_off!(
    "region",
    "inline-calls",
    "guess",
    "entries",
    "apart",
    "share",
    "link",
    "jump-cache",
    "lower",
    "lower-vec",
    "x87",
    "inline-tlb",
    "one-probe",
    "loop-pages",
    "flag-elim",
    "bare"
);

/// What `--engine` offers, as users get them; for benchmarks.
pub const OFFERED: &[Variant] = &[
    REFERENCE,
    Variant {
        name: "dbt",
        make: || dbt(Options::everything()),
    },
    Variant {
        name: "tiered",
        make: || dbt(Options::tiered()),
    },
];

/// All under test, the reference first.
pub fn all() -> Vec<Variant> {
    let mut v = vec![REFERENCE, DBT, TIERED, ALL_OFF];
    v.extend(EACH_OFF);
    v
}

fn checked(mut o: Options) -> Box<dyn Engine> {
    o.verify = true;
    o.code_cache = 16 << 20;
    o.region_insns = 100;
    dbt(o)
}

fn dbt(o: Options) -> Box<dyn Engine> {
    Box::new(Dbt::new(o).expect("a translator for this host"))
}
