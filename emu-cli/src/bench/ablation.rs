//! The ablation: what each optimisation contributes, by running without it.
//!
//! Each round runs the engine with one optimisation off at a time, and every few runs with everything on; the ratio of two times
//! close to each other is what that optimisation is worth on this guest. Cut runs and guests of one's own take part too: the work is the same.

use super::plan::{Engine, Guest};
use super::report::{Ablation, Part, Spread, geomean};
use super::{BenchError, BenchOptions, agree, check, measure};
use crate::signals::Control;
use indicatif::ProgressBar;

/// Every optimisation's name, as `--dbt-off` takes it, and what it does.
fn switches() -> &'static [(&'static str, &'static str)] {
    emu_dbt::options::SWITCHES
}

/// Runs without something that are compared with one run of the whole.
const PER_WHOLE: usize = 3;

/// Which engine, how often.
pub struct Plan {
    engine: Option<Engine>,
    rounds: usize,
}

impl Plan {
    /// The last engine that translates, if there is one.
    pub fn new(o: &BenchOptions, engines: &[Engine], rounds: usize) -> Self {
        let engine = engines.iter().rev().find(|e| e.kind != "interp");
        let wanted = !o.no_ablation && !switches().is_empty();
        Self {
            engine: engine.filter(|_| wanted).cloned(),
            rounds: if o.quick { 1 } else { rounds.min(3) },
        }
    }

    pub fn engine(&self) -> Option<&str> {
        self.engine.as_ref().map(|e| &e.label[..])
    }

    pub fn rounds(&self) -> usize {
        self.engine.as_ref().map_or(0, |_| self.rounds)
    }

    pub fn steps(&self, _: &Guest) -> usize {
        self.rounds() * (switches().len() + switches().len().div_ceil(PER_WHOLE))
    }

    pub fn start(&self) -> Ablated {
        Ablated(switches().iter().map(|_| Vec::new()).collect())
    }

    /// Runs one guest with everything on and with each optimisation off.
    pub fn run(
        &self,
        guest: &Guest,
        bar: &ProgressBar,
        control: &Control,
        into: &mut Ablated,
    ) -> Result<(), BenchError> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        let mut ratios: Vec<Vec<f64>> = switches().iter().map(|_| Vec::new()).collect();
        for _ in 0..self.rounds {
            let mut whole = None;
            for (n, ((name, _), ratios)) in switches().iter().zip(&mut ratios).enumerate() {
                if n % PER_WHOLE == 0 {
                    bar.set_message(format!("{} ablation", guest.name));
                    whole = Some(measure::run(guest, engine, control)?);
                    bar.inc(1);
                }
                let Some(whole) = &whole else { continue };
                bar.set_message(format!("{} without {name}", guest.name));
                let without = Engine {
                    off: vec![name.to_string()],
                    label: format!("{} without {name}", engine.label),
                    ..engine.clone()
                };
                let run = measure::run(guest, &without, control)?;
                check(guest, &without, &run)?;
                agree(guest, (&engine.label, whole), (&without.label, &run))?;
                ratios.push(run.wall.as_secs_f64() / whole.wall.as_secs_f64());
                bar.inc(1);
            }
        }
        for (all, ratios) in into.0.iter_mut().zip(ratios) {
            if let Some(s) = Spread::of(ratios) {
                all.push(Part {
                    name: guest.name.clone(),
                    value: s.median,
                });
            }
        }
        Ok(())
    }
}

/// The ratios found so far, by switch.
pub struct Ablated(Vec<Vec<Part>>);

impl Ablated {
    /// The table, dearest first.
    pub fn finish(self) -> Vec<Ablation> {
        let mut list: Vec<Ablation> = switches()
            .iter()
            .zip(self.0)
            .filter_map(|(&(name, sentence), slowdown)| {
                Some(Ablation {
                    name: name.into(),
                    sentence: sentence.into(),
                    geomean: geomean(slowdown.iter().map(|p| p.value))?,
                    slowdown,
                })
            })
            .collect();
        list.sort_by(|a, b| b.geomean.total_cmp(&a.geomean));
        list
    }
}
