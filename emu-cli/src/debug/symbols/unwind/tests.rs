//! Against the kernel's own unwinder, and against gdb.
