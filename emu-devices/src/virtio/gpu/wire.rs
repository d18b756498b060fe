//! Commands and responses as they stand in buffers.
//!
//! Source: virtio 1.2, 5.7.6.7 (request and response header), 5.7.6.8 (control queue), 5.7.6.10 (cursor queue). All numbers are
//! little-endian.

use crate::chips::fw_cfg::GuestMemory;
use crate::display::{Area, PixelFormat};
use crate::virtio::queue::Buffers;

pub const GET_DISPLAY_INFO: u32 = 0x100;
pub const RESOURCE_CREATE_2D: u32 = 0x101;
pub const RESOURCE_UNREF: u32 = 0x102;
pub const SET_SCANOUT: u32 = 0x103;
pub const RESOURCE_FLUSH: u32 = 0x104;
pub const TRANSFER_TO_HOST_2D: u32 = 0x105;
pub const RESOURCE_ATTACH_BACKING: u32 = 0x106;
pub const RESOURCE_DETACH_BACKING: u32 = 0x107;
pub const GET_EDID: u32 = 0x10a;
pub const UPDATE_CURSOR: u32 = 0x300;
pub const MOVE_CURSOR: u32 = 0x301;

pub const OK_NODATA: u32 = 0x1100;
pub const OK_DISPLAY_INFO: u32 = 0x1101;
pub const OK_EDID: u32 = 0x1104;

/// An error response (5.7.6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Unspec = 0x1200,
    OutOfMemory = 0x1201,
    InvalidScanoutId = 0x1202,
    InvalidResourceId = 0x1203,
    InvalidParameter = 0x1205,
}

/// The header's length.
pub const HEADER: usize = 24;
/// The response shall come with the request's fence.
const FENCE: u32 = 1;

/// A request's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub kind: u32,
    flags: u32,
    fence: u64,
    context: u32,
}

impl Header {
    /// The response's header: of this type, with the fence if there is one.
    pub fn response(&self, kind: u32) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        match self.flags & FENCE {
            0 => bytes.resize(HEADER, 0),
            _ => {
                bytes.extend(FENCE.to_le_bytes());
                bytes.extend(self.fence.to_le_bytes());
                bytes.extend(self.context.to_le_bytes());
                bytes.extend([0; 4]);
            }
        }
        bytes
    }
}

/// A request's bytes, read from front to back. One that is too short, or not in memory, has a wrong parameter.
pub struct Reader<'a> {
    pub buffers: &'a mut Buffers,
    pub memory: &'a dyn GuestMemory,
}

impl Reader<'_> {
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let bytes = self.buffers.get(self.memory);
        bytes.map_err(|_| Refusal::InvalidParameter)
    }

    pub fn u32(&mut self) -> Result<u32, Refusal> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Refusal> {
        self.bytes().map(u64::from_le_bytes)
    }

    pub fn header(&mut self) -> Result<Header, Refusal> {
        let header = Header {
            kind: self.u32()?,
            flags: self.u32()?,
            fence: self.u64()?,
            context: self.u32()?,
        };
        self.u32()?; // ring index
        Ok(header)
    }

    pub fn area(&mut self) -> Result<Area, Refusal> {
        Ok(Area {
            x: self.u32()?,
            y: self.u32()?,
            width: self.u32()?,
            height: self.u32()?,
        })
    }
}

/// enum virtio_gpu_formats: named by the order of the bytes in memory.
pub fn format(number: u32) -> Option<PixelFormat> {
    let (red, green, blue, alpha) = match number {
        1 => (2, 1, 0, Some(3)),
        2 => (2, 1, 0, None),
        3 => (1, 2, 3, Some(0)),
        4 => (1, 2, 3, None),
        67 => (0, 1, 2, Some(3)),
        68 => (3, 2, 1, None),
        121 => (3, 2, 1, Some(0)),
        134 => (0, 1, 2, None),
        _ => return None,
    };
    Some(PixelFormat {
        red,
        green,
        blue,
        alpha,
    })
}
