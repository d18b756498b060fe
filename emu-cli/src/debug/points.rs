//! Breakpoints, watchpoints and catchpoints as their user knows them: numbers, texts, conditions, commands.
//!
//! Each stands for one hook of the machine ([`emu_core::hooks`]) or for several (a line with several addresses); hits are counted and
//! conditions judged there, in the engine's loop.

use super::env::{Machine, Variables};
use super::expr::Expr;
use emu_core::hooks::{Condition, Hook, HookId, Hooks, What};
use std::sync::{Arc, Mutex};

/// What a point is, in GDB's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Breakpoint,
    Watchpoint,
    Catchpoint,
}

/// One point.
pub struct Point {
    pub number: usize,
    pub kind: Kind,
    /// `hw watchpoint`, `breakpoint`, …
    pub label: &'static str,
    /// What was asked for.
    pub text: String,
    pub what: Vec<What>,
    pub hooks: Vec<HookId>,
    pub enabled: bool,
    /// It goes with its first hit.
    pub temporary: bool,
    pub condition: Option<Expr>,
    pub commands: Vec<String>,
    /// What went wrong when the condition was judged.
    pub error: Arc<Mutex<Option<String>>>,
}

/// All points.
#[derive(Default)]
pub struct Points {
    list: Vec<Point>,
    last: usize,
}

impl Points {
    pub fn list(&self) -> &[Point] {
        &self.list
    }

    pub fn get(&self, number: usize) -> Option<&Point> {
        self.list.iter().find(|p| p.number == number)
    }

    pub fn get_mut(&mut self, number: usize) -> Option<&mut Point> {
        self.list.iter_mut().find(|p| p.number == number)
    }

    /// The last one that was made.
    pub fn last(&self) -> usize {
        self.last
    }

    /// The point whose hook this is.
    pub fn of_hook(&self, id: HookId) -> Option<&Point> {
        self.list.iter().find(|p| p.hooks.contains(&id))
    }

    /// Adds a point and its hooks; its number.
    pub fn add(
        &mut self,
        hooks: &mut Hooks,
        variables: &Arc<Mutex<Variables>>,
        mut point: Point,
    ) -> usize {
        self.last += 1;
        point.number = self.last;
        for &what in &point.what {
            let condition = judge(&point, variables);
            point.hooks.push(hooks.add(what, condition));
        }
        self.list.push(point);
        self.last
    }

    /// The same point elsewhere; its counts begin anew.
    pub fn move_to(
        &mut self,
        hooks: &mut Hooks,
        variables: &Arc<Mutex<Variables>>,
        number: usize,
        what: Vec<What>,
    ) {
        let Some(p) = self.get_mut(number) else {
            return;
        };
        if p.what == what {
            return;
        }
        for id in std::mem::take(&mut p.hooks) {
            hooks.remove(id);
        }
        p.what = what;
        for &what in &p.what {
            let id = hooks.add(what, judge(p, variables));
            hooks.enable(id, p.enabled);
            p.hooks.push(id);
        }
    }

    /// Takes a point away; false: there is none of that number.
    pub fn remove(&mut self, hooks: &mut Hooks, number: usize) -> bool {
        let Some(at) = self.list.iter().position(|p| p.number == number) else {
            return false;
        };
        for id in self.list.remove(at).hooks {
            hooks.remove(id);
        }
        true
    }

    /// Another condition for a point, or none.
    pub fn set_condition(
        &mut self,
        hooks: &mut Hooks,
        variables: &Arc<Mutex<Variables>>,
        number: usize,
        condition: Option<Expr>,
    ) -> bool {
        let Some(p) = self.get_mut(number) else {
            return false;
        };
        p.condition = condition;
        for &id in &p.hooks {
            if let Some(hook) = hooks.get_mut(id) {
                hook.condition = judge(p, variables);
            }
        }
        true
    }

    pub fn enable(&mut self, hooks: &mut Hooks, number: usize, on: bool) -> bool {
        let Some(p) = self.get_mut(number) else {
            return false;
        };
        p.enabled = on;
        for &id in &p.hooks {
            hooks.enable(id, on);
        }
        true
    }

    /// The hits of a point, and how many are still to be passed.
    pub fn counts(&self, hooks: &Hooks, number: usize) -> (u64, u64) {
        let ids = self.get(number).map_or(&[][..], |p| &p.hooks);
        let of = |f: fn(&Hook) -> u64| -> u64 {
            let list = hooks.list().iter();
            list.filter(|h| ids.contains(&h.id)).map(f).sum()
        };
        (of(|h| h.hits), of(|h| h.ignore))
    }
}

/// The condition as the machine judges it; one that cannot be evaluated stops the guest and is told.
fn judge(point: &Point, variables: &Arc<Mutex<Variables>>) -> Option<Condition> {
    let expr = point.condition.clone()?;
    let (variables, error) = (variables.clone(), point.error.clone());
    Some(Box::new(move |cpu, _| {
        let mut variables = variables.lock().unwrap_or_else(|e| e.into_inner());
        match expr.eval(&Machine::new(cpu, &mut variables)) {
            Ok(v) => v.is_true(),
            Err(e) => {
                *error.lock().unwrap_or_else(|e| e.into_inner()) = Some(e.to_string());
                true
            }
        }
    }))
}

impl Point {
    /// Whether it is a breakpoint at a linear address.
    pub fn is_at(&self, at: u64) -> bool {
        let here = |w: &What| matches!(*w, What::Code { at: place, .. } if place == at);
        self.what.iter().any(here)
    }

    /// What it is called.
    pub fn word(&self) -> &'static str {
        match self.kind {
            Kind::Breakpoint => "breakpoint",
            Kind::Watchpoint => "watchpoint",
            Kind::Catchpoint => "catchpoint",
        }
    }
}
