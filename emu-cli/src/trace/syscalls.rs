//! Linux's system calls by number: their names, and which argument is a file's name.

use syscalls::{x86, x86_64};

/// `wide`: of 64-bit programs.
pub fn name(number: u64, wide: bool) -> Option<&'static str> {
    let n = usize::try_from(number).ok()?;
    match wide {
        true => x86_64::Sysno::new(n).map(|s| s.name()),
        false => x86::Sysno::new(n).map(|s| s.name()),
    }
}

/// Which argument is the name of a file.
pub fn path_argument(number: u64, wide: bool) -> Option<usize> {
    const FIRST: [&str; 29] = [
        "access",
        "chdir",
        "chmod",
        "chown",
        "chroot",
        "creat",
        "execve",
        "lchown",
        "link",
        "lstat",
        "lstat64",
        "mkdir",
        "mknod",
        "mount",
        "open",
        "pivot_root",
        "readlink",
        "rename",
        "rmdir",
        "stat",
        "stat64",
        "statfs",
        "swapon",
        "symlink",
        "truncate",
        "umount2",
        "unlink",
        "uselib",
        "utime",
    ];
    const SECOND: [&str; 16] = [
        "execveat",
        "faccessat",
        "faccessat2",
        "fchmodat",
        "fchownat",
        "fstatat64",
        "linkat",
        "mkdirat",
        "mknodat",
        "newfstatat",
        "openat",
        "openat2",
        "readlinkat",
        "renameat2",
        "statx",
        "unlinkat",
    ];
    let name = name(number, wide)?;
    match name {
        _ if FIRST.contains(&name) => Some(0),
        _ if SECOND.contains(&name) => Some(1),
        _ => None,
    }
}

/// The name of an error number.
pub fn error_name(n: i64) -> Option<&'static str> {
    let n = i32::try_from(n).ok()?;
    syscalls::Errno::new(n).name()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of Linux's own tables, arch/x86/entry/syscalls.
    #[test]
    fn names() {
        assert_eq!(name(0, true), Some("read"));
        assert_eq!(name(257, true), Some("openat"));
        assert_eq!(name(3, false), Some("read"));
        assert_eq!(name(295, false), Some("openat"));
        assert_eq!(name(u64::MAX, true), None);
        assert_eq!(path_argument(257, true), Some(1));
        assert_eq!(path_argument(11, false), Some(0));
        assert_eq!(path_argument(0, true), None);
    }
}
