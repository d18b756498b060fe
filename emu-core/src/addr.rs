//! Addresses with their space in the type: a linear address is never taken for a physical one.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The first byte of the 4 KiB page that holds this address.
            pub const fn page(self) -> Self {
                Self(self.0 & !0xfff)
            }
            /// The offset within the 4 KiB page.
            pub const fn offset(self) -> u64 {
                self.0 & 0xfff
            }
            /// The address `n` bytes on; wraps at 2^64.
            pub const fn add(self, n: u64) -> Self {
                Self(self.0.wrapping_add(n))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A linear address: what segmentation yields and paging translates.
    LinAddr
}
address! {
    /// A guest-physical address, after paging and before the A20 gate.
    PhysAddr
}
