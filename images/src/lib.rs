//! The guests we write ourselves, assembled when they are asked for.
//!
//! [`demo`] shows everything in miniature; [`systests`] are the directed tests; [`kit`] is what they are made of.
//! Each is a Multiboot 1 image, so QEMU's `-kernel` takes it as `emu run --kernel` does.

#[macro_use]
pub mod kit;
pub mod demo;
pub mod systests;

/// The demo guest, a Multiboot 1 image.
pub fn demo() -> Vec<u8> {
    demo::image()
}

/// Makes an image.
pub type Maker = fn() -> Vec<u8>;

/// Every image by name: the demo and the system tests.
pub fn all() -> impl Iterator<Item = (&'static str, Maker)> {
    std::iter::once(("demo", demo as Maker)).chain(systests::ALL.iter().copied())
}

#[cfg(test)]
mod tests {
    #[test]
    fn images_are_multiboot_and_the_same_every_time() {
        for (name, make) in super::all() {
            let image = make();
            let long = |i: usize| u32::from_le_bytes(image[4 * i..4 * i + 4].try_into().unwrap());
            assert_eq!(
                (long(0), long(0).wrapping_add(long(1)).wrapping_add(long(2))),
                (0x1bad_b002, 0),
                "{name}"
            );
            assert_eq!(
                long(5) - long(4),
                image.len() as u32,
                "{name}: load_end_addr"
            );
            assert!(image == make(), "{name} differs between two builds");
        }
    }

    #[test]
    fn every_system_test_has_its_expected_output() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/systests");
        for (name, _) in super::systests::ALL {
            let file = dir.join(format!("{name}.expected"));
            let text = std::fs::read_to_string(&file)
                .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let mut names: Vec<&str> = text
                .lines()
                .map(|l| l.split(": ").next().unwrap())
                .collect();
            let lines = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), lines, "{name}: a probe's name is used twice");
        }
    }
}
