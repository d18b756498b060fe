//! Hardware task switches (SDM Vol. 3A, chapter 7).

use crate::fault::R;
use crate::vcpu::Vcpu;

impl Vcpu {
    /// An interrupt through a task gate.
    pub fn interrupt_task(&mut self, selector: u16, error: Option<u32>, ext: u32, back: u64) -> R {
        let _ = (error, back);
        self.gp(u32::from(selector & !3) | ext)
    }
}

impl Vcpu {
    /// IRET with NT set: back to the task in the TSS's link field.
    pub fn return_task(&mut self, next: u64) -> R {
        let _ = next;
        self.gp(0)
    }
}
