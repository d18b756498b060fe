//! A device's state as bytes (postcard), for [`PciDevice::save`](crate::pci::PciDevice::save) and `restore`.
//!
//! The bytes do not describe themselves: they fit the same version of the same device, which is what a snapshot says elsewhere.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The state as bytes.
pub fn to_bytes<T: Serialize>(state: &T) -> Vec<u8> {
    // A Vec takes everything, and plain data has nothing that cannot be written.
    postcard::to_stdvec(state).unwrap_or_default()
}

/// The state from bytes, all of which it must take.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((state, [])) => Some(state),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_count() {
        let mut bytes = to_bytes(&(7u8, vec![1u32, 300]));
        assert_eq!(from_bytes(&bytes), Some((7u8, vec![1u32, 300])));
        bytes.push(0);
        assert_eq!(from_bytes::<(u8, Vec<u32>)>(&bytes), None);
        assert_eq!(from_bytes::<(u8, Vec<u32>)>(&bytes[..2]), None);
    }
}
