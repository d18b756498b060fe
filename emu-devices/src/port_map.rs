//! Which device answers which port: a table of 65536 entries, filled by `attach`, where an overlap is an error.

use crate::ibmpc::Ports;

/// A claimed range.
#[derive(Clone, Debug)]
struct Route<D> {
    name: String,
    first: u16,
    last: u16,
    device: D,
}

/// Two devices want the same port, or a range is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error(
        "{name} (ports {first:#x}..={last:#x}) overlaps {other} (ports {other_first:#x}..={other_last:#x}): \
         give one of them another base"
    )]
    Overlap {
        name: String,
        first: u16,
        last: u16,
        other: String,
        other_first: u16,
        other_last: u16,
    },
    #[error("{name}: {count} ports from {first:#x} do not fit in 0..=0xffff")]
    Range {
        name: String,
        first: u16,
        count: u16,
    },
}

/// The table. `D` says which device it is.
#[derive(Clone, Debug)]
pub struct PortMap<D> {
    routes: Vec<Route<D>>,
    /// Per port: index into `routes` plus one, or 0.
    table: Vec<u8>,
}

impl<D: Copy> Default for PortMap<D> {
    fn default() -> Self {
        Self {
            routes: Vec::new(),
            table: vec![0; 1 << 16],
        }
    }
}

impl<D: Copy> PortMap<D> {
    /// Gives `device` a range of ports.
    pub fn attach(
        &mut self,
        name: &str,
        (first, count): Ports,
        device: D,
    ) -> Result<(), PortError> {
        let end = first as usize + count as usize;
        if count == 0 || end > self.table.len() || self.routes.len() >= 255 {
            return Err(PortError::Range {
                name: name.into(),
                first,
                count,
            });
        }
        let range = first as usize..end;
        let last = first + (count - 1);
        if let Some(&taken) = self.table[range.clone()].iter().find(|&&i| i != 0) {
            let other = &self.routes[taken as usize - 1];
            return Err(PortError::Overlap {
                name: name.into(),
                first,
                last,
                other: other.name.clone(),
                other_first: other.first,
                other_last: other.last,
            });
        }
        self.routes.push(Route {
            name: name.into(),
            first,
            last,
            device,
        });
        self.table[range].fill(self.routes.len() as u8);
        Ok(())
    }

    /// Puts a device that is attached elsewhere, or (`None`) nowhere; false, and nowhere: the ports are not free.
    pub fn relocate(&mut self, device: D, to: Option<Ports>) -> bool
    where
        D: PartialEq,
    {
        let Some(n) = self.routes.iter().position(|r| r.device == device) else {
            return false;
        };
        let own = n as u8 + 1;
        self.table
            .iter_mut()
            .filter(|i| **i == own)
            .for_each(|i| *i = 0);
        let Some((first, count)) = to else {
            return true;
        };
        let range = first as usize..first as usize + count as usize;
        let free = count > 0
            && range.end <= self.table.len()
            && self.table[range.clone()].iter().all(|&i| i == 0);
        if free {
            let route = &mut self.routes[n];
            (route.first, route.last) = (first, first + (count - 1));
            self.table[range].fill(own);
        }
        free
    }

    /// The device at a port, the offset in its range, and how many ports of the range are left from there.
    #[inline]
    pub fn find(&self, port: u16) -> Option<(D, u16, u16)> {
        let route = self
            .routes
            .get((self.table[port as usize] as usize).wrapping_sub(1))?;
        Some((route.device, port - route.first, route.last - port + 1))
    }

    /// The wiring, one line per range, by port.
    pub fn list(&self) -> Vec<(String, u16, u16)> {
        let mut list: Vec<_> = self
            .routes
            .iter()
            .map(|r| (r.name.clone(), r.first, r.last))
            .collect();
        list.sort_by_key(|r| r.1);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_names_both() {
        let mut map = PortMap::default();
        map.attach("com1", (0x3f8, 8), 1).unwrap();
        let error = map.attach("probe", (0x3ff, 4), 2).unwrap_err().to_string();
        assert!(
            error.contains("probe (ports 0x3ff..=0x402)")
                && error.contains("com1 (ports 0x3f8..=0x3ff)")
        );
        assert!(map.attach("end", (0xffff, 2), 3).is_err());
        assert!(map.attach("none", (0x10, 0), 3).is_err());
        assert_eq!(map.find(0x3fa), Some((1, 2, 6)));
        assert!(map.relocate(1, Some((0xb000, 64))));
        assert_eq!(
            (map.find(0x3fa), map.find(0xb03f)),
            (None, Some((1, 63, 1)))
        );
        assert!(map.relocate(1, None) && map.find(0xb03f).is_none());
        assert!(map.relocate(1, Some((0x3f8, 8))) && !map.relocate(9, None));
        assert_eq!(map.find(0x3f7), None);
    }
}
