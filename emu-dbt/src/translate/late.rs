//! Flags that are made only where something looks at them.
//!
//! A rotate replaces CF and OF, a scan ZF, a shift by CL everything or nothing: such flags depend on those before, and making them
//! takes more than the result does. Mostly the next comparison overwrites them. So the instruction leaves a recipe, and what the
//! flags were. Whoever needs them follows it: a condition, a way out, the slow path of an access.
//!
//! A recipe replaces flags by values that are known already, so following it twice does no harm: a handler on some rare way may
//! have brought the new flags into the vCPU, where the recipe takes the old ones from.

use super::Translator;
use super::flags::Flags;
use cranelift_codegen::ir::Value;
use std::rc::Rc;

type Recipe = Rc<dyn Fn(&mut Translator<'_, '_>)>;

/// How to make the flags behind an instruction.
pub struct Late {
    /// The flags before it.
    old: Flags,
    /// Replaces CF and OF, and nothing else.
    carry: bool,
    /// Sees `old` as the flags, and leaves a pair.
    recipe: Recipe,
    /// How often it was followed.
    used: u8,
}

/// What of the flags is known at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// CF, 0 or 1 in 64 bits.
    pub cf: Option<Value>,
    /// ZF, an I8 of 0 or 1.
    pub zf: Option<Value>,
}

impl Known {
    pub fn cf(cf: Value) -> Self {
        Self {
            cf: Some(cf),
            zf: None,
        }
    }

    pub fn zf(zf: Value) -> Self {
        Self {
            cf: None,
            zf: Some(zf),
        }
    }
}

/// A recipe is followed so often on rare ways; then it is followed for good.
const OFTEN: u8 = 2;

impl Translator<'_, '_> {
    /// The flags are what `recipe` makes of those before the instruction.
    pub fn flags_later(
        &mut self,
        known: Known,
        recipe: impl Fn(&mut Translator<'_, '_>) + 'static,
    ) {
        self.leave_recipe(known, false, Rc::new(recipe));
    }

    /// The same of one that replaces CF and OF and leaves the others.
    pub fn carry_later(&mut self, recipe: impl Fn(&mut Translator<'_, '_>) + 'static) {
        self.leave_recipe(Known::default(), true, Rc::new(recipe));
    }

    fn leave_recipe(&mut self, known: Known, carry: bool, recipe: Recipe) {
        if !self.options.flag_elim() {
            return recipe(self);
        }
        let old = match self.flags {
            Flags::Late { recipe: n, .. } if carry && self.late[n].carry => self.late[n].old,
            Flags::Late { .. } => {
                let (res, aux) = self.pair();
                Flags::Pair { res, aux }
            }
            f => f,
        };
        self.flags = Flags::Late {
            recipe: self.late.len(),
            known,
        };
        self.late.push(Late {
            old,
            carry,
            recipe,
            used: 0,
        });
    }

    /// Follows a recipe: the lazy record of the flags.
    pub fn follow(&mut self, recipe: usize) -> (Value, Value) {
        let late = &mut self.late[recipe];
        late.used = late.used.saturating_add(1);
        let (old, recipe) = (late.old, late.recipe.clone());
        let now = std::mem::replace(&mut self.flags, old);
        recipe(self);
        let pair = self.pair();
        self.flags = now;
        pair
    }

    /// Makes flags for good that rare ways have been asking for.
    pub fn settle_late(&mut self) {
        if let Flags::Late { recipe, .. } = self.flags
            && self.late[recipe].used >= OFTEN
        {
            let (res, aux) = self.follow(recipe);
            self.flags = Flags::Pair { res, aux };
        }
    }
}
