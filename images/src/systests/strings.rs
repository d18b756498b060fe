//! String instructions cut off by faults: exactly how far they got; page-crossing stacks and accesses;
//! self-modifying code (SDM volume 2, REP; volume 3, sections 6.6, 8.1.3).

use crate::kit::paging::{FRAMES, P, U, W, WINDOW, pte32};
use crate::kit::stage::{CODE32, NOTES, USER_CODE, USER_DATA};
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        s.paging32()?;
        s.poke(pte32(0), FRAMES | P | W | U)?;
        s.poke(pte32(2), (FRAMES + 0x2000) | P | W | U)?;
        cut_off(s)?;
        crossing(s)?;
        self_modifying(s)
    })
}

fn cut_off(s: &mut Stage) -> R {
    let regs = [reg("esi"), reg("edi"), reg("ecx")];
    let src = USER_DATA;
    let end = WINDOW + 0x1000;
    s.code(|a| {
        // A page of one pattern to copy from.
        ok! { a; mov(edi, src); mov(ecx, 0x400); mov(eax, 0x5a5a_5a5a); rep_stosd(); }
    })?;
    s.user(
        "movsb-write-fault",
        &regs,
        |a| ok! { a; mov(esi, src); mov(edi, end - 5); mov(ecx, 16); rep_movsb(); },
    )?;
    s.user(
        "movsd-write-fault-split",
        &regs,
        |a| ok! { a; mov(esi, src); mov(edi, end - 10); mov(ecx, 16); rep_movsd(); },
    )?;
    s.user(
        "movsb-read-fault",
        &regs,
        |a| ok! { a; mov(esi, end - 7); mov(edi, src); mov(ecx, 16); rep_movsb(); },
    )?;
    s.user(
        "movsb-both-absent",
        &regs,
        |a| ok! { a; mov(esi, end); mov(edi, end + 0x10); mov(ecx, 16); rep_movsb(); },
    )?;
    s.user("movsb-backwards", &regs, |a| {
        ok! { a; mov(esi, src + 15); mov(edi, WINDOW + 0x2004); mov(ecx, 16); std(); rep_movsb(); }
    })?;
    s.user(
        "stosb-fault",
        &regs,
        |a| ok! { a; mov(edi, end - 3); mov(ecx, 9); rep_stosb(); },
    )?;
    s.user(
        "stosd-fault-split",
        &regs,
        |a| ok! { a; mov(edi, end - 6); mov(ecx, 9); rep_stosd(); },
    )?;
    s.user(
        "scasb-fault",
        &regs,
        |a| ok! { a; mov(edi, end - 3); mov(ecx, 9); mov(al, 1); bytes(&[0xf2, 0xae]); },
    )?;
    s.user("cmpsb-fault", &regs, |a| {
        ok! { a; mov(esi, src); mov(edi, src); mov(ecx, 3); bytes(&[0xf3, 0xa6]); mov(esi, src); mov(edi, end - 4);
                 mov(dword_ptr(end - 4), 0x5a5a_5a5a); mov(ecx, 9); bytes(&[0xf3, 0xa6]); }
    })?;
    s.user(
        "lodsb-fault",
        &regs,
        |a| ok! { a; mov(esi, end - 4); mov(ecx, 9); bytes(&[0xf3, 0xac]); },
    )?;
    s.user("repne-scasb-stops", &[reg("edi"), reg("ecx"), reg("flags")], |a| {
        ok! { a; mov(byte_ptr(src + 0x800), 7); mov(edi, src + 0x7fe); mov(ecx, 9); mov(al, 7); bytes(&[0xf2, 0xae]); }
    })?;
    s.user(
        "count-zero-no-fault",
        &[reg("edi"), reg("ecx"), reg("flags")],
        |a| {
            ok! { a; mov(edi, end); xor(ecx, ecx); stc(); rep_stosb(); rep_movsb(); }
        },
    )?;
    s.user("movsb-overlap-forward", &[mem("data", USER_DATA + 0x904, 8)], |a| {
        ok! { a; mov(dword_ptr(src + 0x900), 0x0403_0201); mov(esi, src + 0x900); mov(edi, src + 0x901); mov(ecx, 7); rep_movsb(); }
    })?;
    s.user("address-size-16-wraps", &[reg("esi"), reg("edi"), reg("ecx")], |a| {
        // In 32-bit code with a 67h prefix SI, DI and CX count; user pages are above 64 KiB, so this faults at once.
        ok! { a; mov(esi, 0x1_fffe); mov(edi, 0x1_0000); mov(ecx, 0x1_0004); bytes(&[0x67, 0xf3, 0xa4]); }
    })?;
    s.probe("address-size-16-kernel", &[reg("esi"), reg("edi"), reg("ecx")], |a| {
        ok! { a; mov(esi, 0x1_0000 | NOTES); mov(edi, 0x2_0000 | (NOTES + 32)); mov(ecx, 0x3_0004); bytes(&[0x67, 0xf3, 0xa4]); }
    })?;
    s.probe("insb-fault", &[reg("edi"), reg("ecx")], |a| {
        ok! { a; mov(edi, end - 2); mov(ecx, 5); mov(edx, 0x80); bytes(&[0xf3, 0x6c]); }
    })?;
    s.probe("outsb-fault", &[reg("esi"), reg("ecx")], |a| {
        ok! { a; mov(esi, end - 2); mov(ecx, 5); mov(edx, 0x80); bytes(&[0xf3, 0x6e]); }
    })
}

fn crossing(s: &mut Stage) -> R {
    let end = WINDOW + 0x1000;
    s.code(|a| ok! { a; mov(dword_ptr(end - 4), 0x1122_3344); })?;
    s.user(
        "push-crosses",
        &[reg("esp"), mem("low", FRAMES + 0xffc, 8)],
        |a| ok! { a; mov(esp, end + 2); push(eax); },
    )?;
    s.user(
        "pop-crosses",
        &[reg("esp"), reg("eax")],
        |a| ok! { a; mov(esp, end - 2); mov(eax, 0x77); pop(eax); },
    )?;
    s.user("call-faults-on-push", &[reg("esp")], |a| {
        let mut l = a.create_label();
        ok! { a; mov(esp, end + 4); call(l); here(&mut l); nop(); }
    })?;
    s.user(
        "pushad-partly",
        &[reg("esp"), mem("low", FRAMES + 0xffc, 8)],
        |a| ok! { a; mov(esp, WINDOW + 0x2010); pushad(); },
    )?;
    s.user(
        "popad-partly",
        &[reg("esp"), reg("edi"), reg("eax")],
        |a| ok! { a; mov(esp, end - 4); popad(); },
    )?;
    s.user(
        "enter-fault",
        &[reg("esp"), reg("ebp")],
        |a| ok! { a; mov(ebp, 0x42); mov(esp, end + 4); enter(8, 0); },
    )?;
    s.user(
        "xchg-fault",
        &[reg("eax")],
        |a| ok! { a; mov(eax, 0x99); xchg(dword_ptr(end), eax); },
    )?;
    s.user(
        "cmpxchg-fault-when-unequal",
        &[reg("eax")],
        |a| ok! { a; mov(eax, 1); cmpxchg(dword_ptr(end), ecx); },
    )?;
    s.poke(pte32(1), (FRAMES + 0x1000) | P | U)?;
    s.user(
        "cmpxchg-read-only-when-unequal",
        &[reg("eax")],
        |a| ok! { a; mov(eax, 0x1234_5678); cmpxchg(dword_ptr(end), ecx); },
    )?;
    s.user(
        "pop-mem-fault-keeps-esp",
        &[reg("esp")],
        |a| ok! { a; mov(esp, end - 8); pop(dword_ptr(end)); },
    )?;
    s.user(
        "xadd-read-only",
        &[reg("eax")],
        |a| ok! { a; mov(eax, 3); xadd(dword_ptr(end), eax); },
    )?;
    s.user(
        "bts-register-offset-fault",
        &[],
        |a| ok! { a; mov(eax, 0x8000); bts(dword_ptr(WINDOW), eax); },
    )?;
    s.user("pop-esp-based", &[reg("esp"), mem("stored", USER_DATA - 0xc, 8)], |a| {
        // POP [ESP+disp] addresses with ESP after the pop.
        ok! { a; mov(esp, USER_DATA - 0x20); mov(dword_ptr(esp), 0x1357); pop(dword_ptr(esp + 0x10)); }
    })?;
    s.user(
        "push-esp",
        &[reg("eax"), reg("esp")],
        |a| ok! { a; push(esp); pop(eax); },
    )?;
    s.poke(pte32(1), 0)
}

fn self_modifying(s: &mut Stage) -> R {
    s.code(|a| ok! { a; nop(); })?;
    s.user("patch-next-instruction", &[reg("eax")], |a| {
        // MOV byte [patch], 2 then MOV EAX, 1 whose immediate was just changed.
        ok! { a; mov(byte_ptr(USER_CODE + 8), 2); mov(eax, 1); }
    })?;
    s.user("patch-in-loop", &[reg("eax"), reg("ecx")], |a| {
        let mut again = a.create_label();
        ok! { a;
            mov(ecx, 5);
            here(&mut again);
            add(eax, 0x11);
            add(byte_ptr(USER_CODE + 7), 1);
            sub(ecx, 1);
            jnz(again);
        }
    })?;
    s.user("rep-stosb-over-code", &[reg("eax"), reg("ebx")], |a| {
        ok! { a;
            mov(edi, USER_CODE + 0x16);
            mov(ecx, 4);
            mov(eax, 0x43);
            mov(ebx, 0);
            rep_stosb();
            nop();
            nop();
            nop();
            nop();
        }
    })?;
    s.poke(pte32(3), USER_CODE | P | W | U)?;
    s.user("patch-through-alias", &[reg("eax")], |a| {
        ok! { a; mov(byte_ptr(WINDOW + 0x3000 + 8), 9); mov(eax, 1); }
    })?;
    s.probe("code-across-pages-changed", &[reg("eax")], |a| {
        ok! { a;
            mov(dword_ptr(FRAMES + 0x4000), 0);
            mov(eax, dword_ptr(pte32(2)));
            mov(dword_ptr(pte32(5)), eax);
            mov(dword_ptr(pte32(4)), FRAMES | P | W);
            mov(byte_ptr(WINDOW + 0x4fff), 0xb8);
            mov(dword_ptr(WINDOW + 0x5000), 0x1111);
            mov(byte_ptr(WINDOW + 0x5004), 0xc3);
            mov(eax, WINDOW + 0x4fff);
            call(eax);
            mov(ebx, eax);
            mov(dword_ptr(WINDOW + 0x5000), 0x2222);
            mov(eax, WINDOW + 0x4fff);
            call(eax);
            shl(ebx, 16);
            or(eax, ebx);
        }
    })?;
    s.probe("remapped-page-other-code", &[reg("eax"), reg("ebx")], |a| {
        ok! { a;
            mov(dword_ptr(FRAMES + 0x6000), 0xc3_90b0);
            mov(dword_ptr(FRAMES + 0x7000), 0xc3_91b0);
            mov(dword_ptr(pte32(6)), (FRAMES + 0x6000) | P | W);
            xor(eax, eax);
            mov(edx, WINDOW + 0x6000);
            call(edx);
            mov(ebx, eax);
            mov(dword_ptr(pte32(6)), (FRAMES + 0x7000) | P | W);
            invlpg(byte_ptr(edx));
            call(edx);
        }
    })?;
    let _ = CODE32;
    Ok(())
}
