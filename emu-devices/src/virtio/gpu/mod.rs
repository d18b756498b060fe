//! The GPU, for pictures in two dimensions: one screen with a pointer.
//!
//! Source: virtio 1.2, 5.7. A driver makes resources (pixels on the host), attaches guest memory to them, has rectangles copied over
//! (TRANSFER_TO_HOST_2D), says which resource the screen shows, and tells when it may be looked at (RESOURCE_FLUSH).
//!
//! Data flow: control queue → [`Gpu::control`] → resources' [`Surface`]s, which the display's own thread draws from; on the machine's thread
//! there is only the copying of lines, no colour is converted. A transfer that is longer than a call's budget goes on in the
//! next call, from the line in `resume`.
//!
//! Invariants: what all resources take of the host's memory is at most [`MAX_HOST_MEMORY`]; what the screen shows is within its resource.

mod resource;
#[cfg(test)]
mod tests;
mod wire;

use super::*;
use crate::display::{
    Area, POINTER, Picture, PixelFormat, Pointer, Scanout, Screen, Surface, edid,
};
use crate::state;
use resource::{Backing, MAX_PIECES, PIECE, Resource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::*;

const CONTROL: usize = 0;
const CURSOR: usize = 1;

const F_EDID: u64 = 1 << 1;

/// QEMU's `max_hostmem`.
pub const MAX_HOST_MEMORY: u64 = 256 << 20;
/// A screen's width and height, in pixels.
const SIZES: std::ops::RangeInclusive<u32> = 16..=4096;
/// What the driver is told to use: the EDID's preferred mode.
const PREFERRED: (u32, u32) = (1024, 768);
/// Screens that a response has room for.
const SCREENS: usize = 16;
const EDID_ROOM: usize = 1024;
/// Tells this device's pictures from those of another.
const MARK: u64 = 1 << 63;

/// The pointer: where its hot spot is on the screen, and in the image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cursor {
    x: u32,
    y: u32,
    hot_x: u32,
    hot_y: u32,
    /// `None`: hidden.
    image: Option<Vec<u32>>,
}

/// The device.
#[derive(Default)]
pub struct Gpu {
    resources: BTreeMap<u32, Resource>,
    /// What `resources` take of the host's memory.
    taken: u64,
    /// The resource that the screen shows.
    scanout: Option<(u32, Area)>,
    cursor: Cursor,
    /// A transfer that was interrupted, and the line that it goes on with.
    resume: Option<(Transfer, u32)>,
    changes: u64,
}

/// A resource in a snapshot.
#[derive(Serialize, Deserialize)]
struct Saved {
    id: u32,
    width: u32,
    height: u32,
    format: PixelFormat,
    bytes: Vec<u8>,
    backing: Option<Vec<(u64, u32)>>,
}

type State = (
    Vec<Saved>,
    Option<(u32, Area)>,
    Cursor,
    Option<(Transfer, u32)>,
);

/// A resource's id, the area, and where it begins in the backing.
type Transfer = (u32, Area, u64);

/// What comes of a command.
enum Done {
    /// A response's type, and what follows its header.
    With(u32, Vec<u8>),
    /// The budget was used up.
    NotYet,
}

const OK: Result<Done, Refusal> = Ok(Done::With(OK_NODATA, Vec::new()));

impl Gpu {
    pub fn new() -> Self {
        Self::default()
    }

    fn resource(&mut self, id: u32) -> Result<&mut Resource, Refusal> {
        let found = self.resources.get_mut(&id);
        found.ok_or(Refusal::InvalidResourceId)
    }

    /// Takes host memory.
    fn take(&mut self, bytes: u64) -> Result<(), Refusal> {
        let sum = self.taken.saturating_add(bytes);
        if sum > MAX_HOST_MEMORY {
            return Err(Refusal::OutOfMemory);
        }
        self.taken = sum;
        Ok(())
    }

    fn control(&mut self, kind: u32, r: &mut Reader, x: &mut u64) -> Result<Done, Refusal> {
        match kind {
            GET_DISPLAY_INFO => Ok(Done::With(OK_DISPLAY_INFO, display_info())),
            GET_EDID => {
                if r.u32()? != 0 {
                    return Err(Refusal::InvalidScanoutId);
                }
                let block = edid::block();
                let mut body = (block.len() as u32).to_le_bytes().to_vec();
                body.extend([0; 4]);
                body.extend(block);
                body.resize(8 + EDID_ROOM, 0);
                Ok(Done::With(OK_EDID, body))
            }
            RESOURCE_CREATE_2D => {
                let (id, format) = (r.u32()?, r.u32()?);
                let (width, height) = (r.u32()?, r.u32()?);
                if id == 0 || self.resources.contains_key(&id) {
                    return Err(Refusal::InvalidResourceId);
                }
                let format = wire::format(format).ok_or(Refusal::InvalidParameter)?;
                if width == 0 || height == 0 {
                    return Err(Refusal::InvalidParameter);
                }
                self.take(Resource::cost_of(width, height))?;
                let resource = Resource {
                    surface: Arc::new(Surface::new(width, height, format)),
                    backing: None,
                };
                self.resources.insert(id, resource);
                OK
            }
            RESOURCE_UNREF => {
                let id = r.u32()?;
                let resource = self.resources.remove(&id);
                let resource = resource.ok_or(Refusal::InvalidResourceId)?;
                self.taken -= resource.cost();
                if self.scanout.is_some_and(|s| s.0 == id) {
                    self.scanout = None;
                    self.changes += 1;
                }
                OK
            }
            SET_SCANOUT => {
                let area = r.area()?;
                let (screen, id) = (r.u32()?, r.u32()?);
                if screen != 0 {
                    return Err(Refusal::InvalidScanoutId);
                }
                let shown = match id {
                    0 => None,
                    _ => {
                        let fits = self.resource(id)?.has(area);
                        if !fits || !SIZES.contains(&area.width) || !SIZES.contains(&area.height) {
                            return Err(Refusal::InvalidParameter);
                        }
                        Some((id, area))
                    }
                };
                self.scanout = shown;
                self.changes += 1;
                OK
            }
            RESOURCE_FLUSH => {
                let area = r.area()?;
                let id = r.u32()?;
                if !self.resource(id)?.has(area) {
                    return Err(Refusal::InvalidParameter);
                }
                if self.scanout.is_some_and(|s| s.0 == id) {
                    self.changes += 1;
                }
                OK
            }
            TRANSFER_TO_HOST_2D => {
                let area = r.area()?;
                let (offset, id) = (r.u64()?, r.u32()?);
                let this = (id, area, offset);
                let from = match self.resume.take() {
                    Some((transfer, line)) if transfer == this => line,
                    _ => 0,
                };
                let resource = self.resource(id)?;
                if !resource.has(area) {
                    return Err(Refusal::InvalidParameter);
                }
                let next = resource.transfer(area, offset, from, *x, r.memory)?;
                let lines = u64::from(next.saturating_sub(from));
                *x = x.saturating_sub(lines * 4 * u64::from(area.width));
                if next < area.height {
                    self.resume = Some((this, next));
                    return Ok(Done::NotYet);
                }
                OK
            }
            RESOURCE_ATTACH_BACKING => {
                let (id, count) = (r.u32()?, r.u32()?);
                if self.resource(id)?.backing.is_some() || count > MAX_PIECES {
                    return Err(Refusal::Unspec);
                }
                if r.buffers.left() < 16 * u64::from(count) {
                    return Err(Refusal::InvalidParameter);
                }
                let mut backing = Backing::default();
                for _ in 0..count {
                    let (address, length) = (r.u64()?, r.u32()?);
                    r.u32()?;
                    backing.add(address, length);
                }
                *x = x.saturating_sub(PIECE * u64::from(count));
                self.take(backing.cost())?;
                self.resource(id)?.backing = Some(backing);
                OK
            }
            RESOURCE_DETACH_BACKING => {
                let id = r.u32()?;
                let backing = self.resource(id)?.backing.take();
                self.taken -= backing.ok_or(Refusal::Unspec)?.cost();
                OK
            }
            // What was not offered is no command.
            _ => Err(Refusal::Unspec),
        }
    }

    /// A command of the cursor queue, which has no response.
    fn point(&mut self, r: &mut Reader) -> Result<(), Refusal> {
        let kind = r.header()?.kind;
        let (screen, x, y) = (r.u32()?, r.u32()?, r.u32()?);
        r.u32()?;
        let (id, hot_x, hot_y) = (r.u32()?, r.u32()?, r.u32()?);
        if screen != 0 {
            return Err(Refusal::InvalidScanoutId);
        }
        match kind {
            MOVE_CURSOR => {}
            UPDATE_CURSOR => {
                let image = match id {
                    0 => None,
                    _ => {
                        let surface = &self.resource(id)?.surface;
                        let size = POINTER as u32;
                        if (surface.width, surface.height) != (size, size) {
                            return Err(Refusal::InvalidParameter);
                        }
                        let bytes = surface.lock();
                        let pixels = bytes.chunks_exact(4).map(|p| surface.format.argb(p));
                        Some(pixels.collect())
                    }
                };
                self.cursor.image = image;
                (self.cursor.hot_x, self.cursor.hot_y) = (hot_x, hot_y);
            }
            _ => return Err(Refusal::Unspec),
        }
        (self.cursor.x, self.cursor.y) = (x, y);
        self.changes += 1;
        Ok(())
    }

    fn serve_control(&mut self, x: &mut Context) -> Result<(), Broken> {
        while let Some(mut chain) = x.pop(CONTROL)? {
            let mut r = Reader {
                buffers: &mut chain.readable,
                memory: x.memory,
            };
            let mut budget = x.left();
            let before = budget;
            let header = r.header();
            let done = match header {
                Ok(header) => self.control(header.kind, &mut r, &mut budget),
                Err(refusal) => Err(refusal),
            };
            x.spend(before - budget);
            let header = header.unwrap_or_default();
            let response = match done {
                Ok(Done::NotYet) => {
                    x.unpop(CONTROL);
                    return Ok(());
                }
                Ok(Done::With(kind, body)) => [header.response(kind), body].concat(),
                Err(refusal) => header.response(refusal as u32),
            };
            let fits = response.len() as u64 <= chain.writable.left();
            let done = fits && chain.writable.write(&response, x.memory).is_ok();
            x.push(
                CONTROL,
                &chain,
                if done { response.len() as u32 } else { 0 },
            )?;
        }
        Ok(())
    }
}

fn display_info() -> Vec<u8> {
    let first = [0, 0, PREFERRED.0, PREFERRED.1, 1, 0];
    let mut body = first.map(u32::to_le_bytes).concat();
    body.resize(SCREENS * 24, 0);
    body
}

impl VirtioDevice for Gpu {
    fn kind(&self) -> Kind {
        Kind {
            id: 16,
            transitional: None,
            // A display that is no VGA.
            class: [3, 0x80, 0],
        }
    }

    fn features(&self) -> u64 {
        F_EDID
    }

    fn queues(&self) -> Vec<u16> {
        vec![64, 16]
    }

    fn config(&self) -> Vec<u8> {
        // events_read, events_clear: the screen never changes by itself. One screen; no capability sets.
        [0u32, 0, 1, 0].map(u32::to_le_bytes).concat()
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        if queue == CONTROL {
            return self.serve_control(x);
        }
        while let Some(mut chain) = x.pop(CURSOR)? {
            let mut r = Reader {
                buffers: &mut chain.readable,
                memory: x.memory,
            };
            // A command that is refused has no effect; nobody can be told.
            let _ = self.point(&mut r);
            x.push(CURSOR, &chain, 0)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self {
            changes: self.changes + 1,
            ..Self::default()
        };
    }

    fn screen(&self, now: u64) -> Option<Screen> {
        let shown = self.scanout.and_then(|(id, area)| {
            let resource = self.resources.get(&id)?;
            Some((resource.surface.clone(), area))
        });
        let c = &self.cursor;
        let pointer = c.image.as_ref().map(|image| Pointer {
            x: i64::from(c.x as i32) - i64::from(c.hot_x),
            y: i64::from(c.y as i32) - i64::from(c.hot_y),
            image: image.clone(),
        });
        Some(Screen {
            picture: Picture::Scanout(Scanout { shown, pointer }),
            changes: MARK | self.changes,
            now,
        })
    }

    fn save(&self) -> Vec<u8> {
        let resources = self.resources.iter().map(|(id, r)| Saved {
            id: *id,
            width: r.surface.width,
            height: r.surface.height,
            format: r.surface.format,
            bytes: r.surface.lock().clone(),
            backing: r.backing.as_ref().map(|b| b.iter().collect()),
        });
        let resources: Vec<Saved> = resources.collect();
        state::to_bytes(&(resources, self.scanout, &self.cursor, self.resume))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((saved, scanout, cursor, resume)) = state::from_bytes::<State>(bytes) else {
            return false;
        };
        let mut gpu = Self {
            changes: self.changes + 1,
            scanout,
            cursor,
            resume,
            ..Self::default()
        };
        for s in saved {
            if s.bytes.len() as u64 != Surface::size(s.width, s.height) {
                return false;
            }
            let resource = Resource {
                surface: Arc::new(Surface::with(s.width, s.height, s.format, s.bytes)),
                backing: s.backing.map(|b| b.into_iter().collect()),
            };
            if gpu.take(resource.cost()).is_err() {
                return false;
            }
            gpu.resources.insert(s.id, resource);
        }
        let shown = gpu.scanout.is_none_or(|(id, area)| {
            let resource = gpu.resources.get(&id);
            resource.is_some_and(|r| r.has(area))
                && SIZES.contains(&area.width)
                && SIZES.contains(&area.height)
        });
        let image = gpu.cursor.image.as_ref();
        let sound = shown && image.is_none_or(|i| i.len() == POINTER * POINTER);
        if sound {
            *self = gpu;
        }
        sound
    }
}
