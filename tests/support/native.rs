//! The host's CPU as an oracle: executes one instruction with a whole given state, in a child process.
//!
//! There is no assembly here. The child lives in its signal handler: a signal frame holds every register, the flags and
//! the FPU, SSE and AVX state, so the handler *stores* the state after the last case from the frame, *writes* the state before the
//! next case into it, and returns; the kernel's sigreturn loads all of it at once and the instruction runs. What follows
//! it is an INT3, so the next signal (SIGTRAP, or whatever the instruction raised) brings the state after. A code segment of
//! 32 bits in the frame gives compatibility mode.
//!
//! Parent and child share an array of [`Slot`]s; a byte through a pipe starts a batch, a byte back ends it. A child that
//! dies or hangs takes the case it was at with it ([`Native::run`] says `None`) and another one is started.
#![allow(unsafe_code)]

use crate::state::{Case, Outcome};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use linux::Native;

/// A host that cannot execute x86-64 code has no oracle.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub struct Native(std::convert::Infallible);

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
impl Native {
    pub fn start() -> Option<Self> {
        None
    }
    pub fn run(&mut self, _: &[Case]) -> Vec<Option<Outcome>> {
        match self.0 {}
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux {
    use super::{Case, Outcome};
    use crate::state::{
        CODE, CODE_BYTES, CONST, CONST_BYTES, DATA, DATA_BYTES, FLAGS, Fault, INT3, State,
        const_byte,
    };
    use std::ptr::{addr_of_mut, null_mut};

    /// Cases in a batch at most.
    const SLOTS: usize = 256;

    /// One case on its way to the child, and what comes back.
    #[repr(C)]
    struct Slot {
        bits: u32,
        len: u32,
        code: [u8; 32],
        before: State,
        after: State,
        /// Exception vector, or one of the two below.
        vector: i32,
        error: u32,
        address: u64,
    }
    /// The instruction completed.
    const NONE: i32 = -1;
    /// The child has not come to this case.
    const PENDING: i32 = -2;

    #[repr(C)]
    struct Shared {
        count: u32,
        slots: [Slot; SLOTS],
    }

    /// A child process that executes cases.
    pub struct Native {
        shared: *mut Shared,
        pid: libc::pid_t,
        to_child: i32,
        from_child: i32,
    }

    /// The child's own state; only its signal handler touches it.
    struct Child {
        shared: *mut Shared,
        next: u32,
        running: bool,
        go: i32,
        done: i32,
    }
    static mut CHILD: Child = Child {
        shared: null_mut(),
        next: 0,
        running: false,
        go: -1,
        done: -1,
    };

    fn map(at: u64, len: usize, prot: i32, flags: i32) -> *mut u8 {
        // SAFETY: a new anonymous mapping; a fixed one replaces nothing (NOREPLACE).
        let p = unsafe { libc::mmap(at as *mut _, len, prot, flags | libc::MAP_ANONYMOUS, -1, 0) };
        if p == libc::MAP_FAILED {
            null_mut()
        } else {
            p.cast()
        }
    }

    impl Native {
        /// Starts the child; `None` on hosts that are not x86-64 Linux.
        ///
        /// # Panics
        /// When the system refuses memory, a pipe or a process.
        pub fn start() -> Option<Self> {
            let shared = map(
                0,
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
            );
            assert!(!shared.is_null(), "no shared memory for the native child");
            let mut n = Self {
                shared: shared.cast(),
                pid: 0,
                to_child: -1,
                from_child: -1,
            };
            n.spawn();
            Some(n)
        }

        fn spawn(&mut self) {
            let (mut go, mut done) = ([0; 2], [0; 2]);
            // SAFETY: pipe2 fills two descriptors.
            let ok = unsafe {
                libc::pipe2(go.as_mut_ptr(), libc::O_CLOEXEC) == 0
                    && libc::pipe2(done.as_mut_ptr(), libc::O_CLOEXEC) == 0
            };
            assert!(ok, "no pipes for the native child");
            // SAFETY: the child calls nothing but system calls on memory that is mapped already (see `child`).
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0, "no process for the native child");
            if pid == 0 {
                // SAFETY: we are alone in this process.
                unsafe {
                    libc::close(go[1]);
                    libc::close(done[0]);
                    child(self.shared, go[0], done[1])
                }
            }
            // SAFETY: the child's ends are the child's.
            unsafe {
                libc::close(go[0]);
                libc::close(done[1]);
            }
            (self.pid, self.to_child, self.from_child) = (pid, go[1], done[0]);
        }

        fn stop(&mut self) {
            // SAFETY: our own child and descriptors.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, null_mut(), 0);
                libc::close(self.to_child);
                libc::close(self.from_child);
            }
        }

        /// Executes each case once. `None` stands for one that killed or stopped the child.
        pub fn run(&mut self, cases: &[Case]) -> Vec<Option<Outcome>> {
            let mut out = Vec::with_capacity(cases.len());
            while out.len() < cases.len() {
                let batch = &cases[out.len()..cases.len().min(out.len() + SLOTS)];
                self.batch(batch, &mut out);
            }
            out
        }

        fn batch(&mut self, cases: &[Case], out: &mut Vec<Option<Outcome>>) {
            // SAFETY: the child reads and writes the slots only between the two bytes through the pipes.
            let shared = unsafe { &mut *self.shared };
            shared.count = cases.len() as u32;
            for (slot, case) in shared.slots.iter_mut().zip(cases) {
                slot.bits = case.bits.count();
                slot.len = case.code.len().min(32) as u32;
                slot.code[..slot.len as usize].copy_from_slice(&case.code[..slot.len as usize]);
                slot.before.clone_from(&case.before);
                slot.vector = PENDING;
            }
            let alive = self.exchange();
            for slot in &shared.slots[..cases.len()] {
                if slot.vector == PENDING {
                    // The child died here; the rest has not been tried.
                    out.push(None);
                    break;
                }
                out.push(Some(Outcome {
                    after: Box::new(slot.after.clone()),
                    fault: u8::try_from(slot.vector).ok().map(|vector| Fault {
                        vector,
                        error: slot.error,
                        address: if vector == 14 { slot.address } else { 0 },
                    }),
                }));
            }
            if !alive {
                self.stop();
                self.spawn();
            }
        }

        /// One byte there and one back; false when the child is dead or has hung for ten seconds.
        fn exchange(&mut self) -> bool {
            let mut b = 0u8;
            let mut p = libc::pollfd {
                fd: self.from_child,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one byte each way on our descriptors. Rust's runtime ignores SIGPIPE.
            unsafe {
                libc::write(self.to_child, (&raw const b).cast(), 1) == 1
                    && libc::poll(&mut p, 1, 10_000) == 1
                    && libc::read(self.from_child, (&raw mut b).cast(), 1) == 1
            }
        }
    }

    impl Drop for Native {
        fn drop(&mut self) {
            self.stop();
            // SAFETY: the mapping is ours, and the child is gone.
            unsafe { libc::munmap(self.shared.cast(), size_of::<Shared>()) };
        }
    }

    /// The child's life.
    ///
    /// # Safety
    /// In a new process; nothing here allocates or locks, since other threads' locks may be held for ever.
    unsafe fn child(shared: *mut Shared, go: i32, done: i32) -> ! {
        const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
        let code = map(CODE, CODE_BYTES, RW | libc::PROT_EXEC, fixed);
        let data = map(DATA, DATA_BYTES, RW, fixed);
        let constant = map(CONST, CONST_BYTES, RW, fixed);
        let stack = map(0, 1 << 16, RW, libc::MAP_PRIVATE);
        // SAFETY: the pages were mapped just now; CHILD belongs to this one thread.
        unsafe {
            if code as u64 != CODE || data as u64 != DATA || constant as u64 != CONST {
                libc::_exit(3);
            }
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            code.write_bytes(INT3, CODE_BYTES);
            for i in 0..CONST_BYTES {
                constant.add(i).write(const_byte(i));
            }
            libc::mprotect(constant.cast(), CONST_BYTES, libc::PROT_READ);
            CHILD = Child {
                shared,
                next: 0,
                running: false,
                go,
                done,
            };
            let alt = libc::stack_t {
                ss_sp: stack.cast(),
                ss_flags: 0,
                ss_size: 1 << 16,
            };
            libc::sigaltstack(&alt, null_mut());
            let mut act: libc::sigaction = std::mem::zeroed();
            act.sa_sigaction = on_signal as *const () as usize;
            act.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigfillset(&mut act.sa_mask);
            for s in [
                libc::SIGTRAP,
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGILL,
                libc::SIGFPE,
            ] {
                libc::sigaction(s, &act, null_mut());
            }
            // 32-bit code needs flat data segments; 64-bit code does not look at them. GS gets the data's base.
            std::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) 0x2b_u32, options(nostack, nomem));
            libc::syscall(libc::SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, DATA);
            std::arch::asm!("int3");
            libc::_exit(4)
        }
    }

    extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes the interrupted context; CHILD is this thread's, and signals are blocked here.
        unsafe {
            let c = &mut *addr_of_mut!(CHILD);
            let context = &mut *context.cast::<libc::ucontext_t>();
            let shared = &mut *c.shared;
            if c.running {
                store(&mut shared.slots[c.next as usize], context);
                c.next += 1;
            }
            if !c.running || c.next == shared.count {
                let mut b = 0u8;
                if c.running {
                    libc::write(c.done, (&raw const b).cast(), 1);
                }
                if libc::read(c.go, (&raw mut b).cast(), 1) != 1 {
                    libc::_exit(0);
                }
                c.next = 0;
                c.running = true;
            }
            load(&mut shared.slots[c.next as usize], context);
        }
    }

    /// Where glibc keeps RAX to R15 in `gregs`.
    const GPRS: [i32; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];

    /// The frame's FPU area: an FXSAVE image, the XSAVE header at 512, the high halves of YMM at 576.
    fn area(context: &mut libc::ucontext_t) -> *mut u8 {
        context.uc_mcontext.fpregs.cast()
    }

    /// Frame to `slot.after`.
    ///
    /// # Safety
    /// In the child's signal handler.
    unsafe fn store(slot: &mut Slot, context: &mut libc::ucontext_t) {
        let f = area(context);
        let g = &context.uc_mcontext.gregs;
        let s = &mut slot.after;
        for (v, &n) in s.gpr.iter_mut().zip(&GPRS) {
            *v = g[n as usize] as u64;
        }
        s.rip = g[libc::REG_RIP as usize] as u64;
        s.flags = g[libc::REG_EFL as usize] as u64 & FLAGS;
        slot.vector = g[libc::REG_TRAPNO as usize] as i32;
        slot.error = g[libc::REG_ERR as usize] as u32;
        slot.address = g[libc::REG_CR2 as usize] as u64;
        let code = slot.before.rip..slot.before.rip + u64::from(slot.len);
        let filler = (CODE..CODE + CODE_BYTES as u64).contains(&s.rip.wrapping_sub(1))
            && !code.contains(&(s.rip - 1));
        if slot.vector == 3 && filler {
            s.rip -= 1;
            slot.vector = NONE;
        } else if slot.vector == 14 && slot.error & 16 != 0 && s.rip != slot.before.rip {
            // A branch to a page without code: the branch itself completed.
            slot.vector = NONE;
        }
        // SAFETY: the kernel wrote an XSAVE area of at least 832 bytes (the host has AVX; see `load`).
        unsafe {
            s.fcw = f.cast::<u16>().read_unaligned();
            s.fsw = f.add(2).cast::<u16>().read_unaligned();
            s.ftw = f.add(4).read();
            s.mxcsr = f.add(24).cast::<u32>().read_unaligned();
            for i in 0..8 {
                s.st[i] = f.add(32 + 16 * i).cast::<u64>().read_unaligned();
                s.st_exp[i] = f.add(40 + 16 * i).cast::<u16>().read_unaligned();
            }
            let has = f.add(512).cast::<u64>().read_unaligned();
            for i in 0..16 {
                let low = f.add(160 + 16 * i).cast::<[u64; 2]>().read_unaligned();
                let mut high = f.add(576 + 16 * i).cast::<[u64; 2]>().read_unaligned();
                if has & 4 == 0 {
                    high = [0; 2];
                }
                s.vec[i] = [low[0], low[1], high[0], high[1]];
            }
            std::ptr::copy_nonoverlapping(DATA as *const u8, s.mem.as_mut_ptr(), DATA_BYTES);
            // The instruction may have stored over its own page.
            (CODE as *mut u8).write_bytes(INT3, CODE_BYTES);
        }
    }

    /// `slot.before` to the frame.
    ///
    /// # Safety
    /// In the child's signal handler.
    unsafe fn load(slot: &mut Slot, context: &mut libc::ucontext_t) {
        let f = area(context);
        // UC_SIGCONTEXT_SS and UC_STRICT_RESTORE_SS: the frame's SS counts.
        context.uc_flags |= 6;
        let g = &mut context.uc_mcontext.gregs;
        let s = &slot.before;
        for (v, &n) in s.gpr.iter().zip(&GPRS) {
            g[n as usize] = *v as i64;
        }
        g[libc::REG_RIP as usize] = s.rip as i64;
        g[libc::REG_EFL as usize] = (s.flags & FLAGS | 0x202) as i64;
        let cs = if slot.bits == 32 { 0x23 } else { 0x33 };
        g[libc::REG_CSGSFS as usize] = cs | 0x2b << 48;
        // SAFETY: as `store`; the code lies within its pages (the generator's promise, checked by the parent's `Case`).
        unsafe {
            f.cast::<u16>().write_unaligned(s.fcw);
            f.add(2).cast::<u16>().write_unaligned(s.fsw);
            f.add(4).write(s.ftw);
            f.add(5).write(0);
            f.add(6).cast::<u16>().write_unaligned(0);
            f.add(8).cast::<[u64; 2]>().write_unaligned([0; 2]);
            f.add(24).cast::<u32>().write_unaligned(s.mxcsr & 0xffff);
            for i in 0..8 {
                f.add(32 + 16 * i).cast::<u64>().write_unaligned(s.st[i]);
                f.add(40 + 16 * i)
                    .cast::<u64>()
                    .write_unaligned(u64::from(s.st_exp[i]));
            }
            // XSTATE_BV: x87, SSE and AVX come from the frame, anything newer is in its initial state.
            f.add(512).cast::<u64>().write_unaligned(7);
            for (i, v) in s.vec.iter().enumerate() {
                f.add(160 + 16 * i)
                    .cast::<[u64; 2]>()
                    .write_unaligned([v[0], v[1]]);
                f.add(576 + 16 * i)
                    .cast::<[u64; 2]>()
                    .write_unaligned([v[2], v[3]]);
            }
            std::ptr::copy_nonoverlapping(s.mem.as_ptr(), DATA as *mut u8, DATA_BYTES);
            let at = (s.rip.wrapping_sub(CODE) as usize).min(CODE_BYTES - slot.len as usize);
            std::ptr::copy_nonoverlapping(
                slot.code.as_ptr(),
                (CODE as *mut u8).add(at),
                slot.len as usize,
            );
        }
    }
}
