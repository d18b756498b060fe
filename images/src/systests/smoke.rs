//! The stage itself: one probe of each kind.

use crate::kit::paging::WINDOW;
use crate::kit::stage::{How, mem, reg, test};
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        s.probe("kernel32", &[reg("eax"), reg("esp"), reg("flags")], |a| {
            ok! { a; mov(eax, 0x1234_5678); stc(); }
        })?;
        s.probe("fault32", &[reg("error")], |a| {
            ok! { a; mov(eax, 0x7b); mov(fs, eax); }
        })?;
        s.user("user32", &[reg("cs"), reg("ss"), reg("esp")], |a| a.cli())?;
        s.user("user32-ok", &[reg("cs"), reg("ss"), reg("esp")], |a| {
            a.nop()
        })?;
        s.real("real", &[reg("eax"), reg("cs"), reg("sp")], |a| {
            ok! { a; mov(eax, 0x8765_4321_u32); mov(cx, 0); div(cx); }
        })?;
        s.probe_in(How::Kernel16, "kernel16", &[reg("cs"), reg("sp")], |a| {
            a.ud2()
        })?;
        s.probe_in(
            How::V86 { flags: 0x3002 },
            "v86",
            &[reg("cs"), reg("flags"), reg("ds")],
            |a| a.ud2(),
        )?;
        s.paging32()?;
        s.probe("paging32", &[reg("cr2")], |a| a.mov(eax, dword_ptr(WINDOW)))?;
        s.code(|a| {
            ok! { a; mov(eax, cr0); and(eax, 0x7fff_ffff); mov(cr0, eax); }
        })?;
        s.long()?;
        s.probe("kernel64", &[reg("rax"), reg("rsp")], |a| {
            a.mov(rax, 0x1234_5678_9abc_def0_u64)
        })?;
        s.probe("fault64", &[mem("vector", 0x8080, 2)], |a| {
            a.mov(rax, qword_ptr(WINDOW))
        })?;
        s.user("user64", &[reg("cs"), reg("rsp")], |a| a.hlt())
    })
}
