//! A picture in memory, and as PNG.

/// Rows of pixels, 00RRGGBBh each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u32>,
}

impl Frame {
    /// A black picture.
    pub fn black(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            pixels: vec![0; width * height],
        }
    }

    /// A row.
    pub fn row(&self, y: usize) -> &[u32] {
        &self.pixels[y * self.width..][..self.width]
    }

    /// A row, to draw.
    pub fn row_mut(&mut self, y: usize) -> &mut [u32] {
        &mut self.pixels[y * self.width..][..self.width]
    }

    /// Red, green, blue of all pixels.
    pub fn rgb(&self) -> Vec<u8> {
        let bytes = self.pixels.iter().flat_map(|p| {
            let [b, g, r, _] = p.to_le_bytes();
            [r, g, b]
        });
        bytes.collect()
    }

    /// The picture as a PNG file (8 bits, RGB).
    pub fn png(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        // Writing to memory fails only for a picture without pixels, of which there is no file.
        let written = encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&self.rgb()));
        if written.is_err() {
            file.clear();
        }
        file
    }

    /// The picture as a binary PPM file.
    pub fn ppm(&self) -> Vec<u8> {
        let mut file = format!("P6\n{} {}\n255\n", self.width, self.height).into_bytes();
        file.extend(self.rgb());
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_can_be_read_back() {
        let mut f = Frame::black(3, 2);
        f.pixels
            .copy_from_slice(&[0xff0000, 0x00ff00, 0x0000ff, 0x123456, 0, 0xffffff]);
        let file = f.png();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file))
            .read_info()
            .unwrap();
        let mut buf = vec![0; 18];
        let info = reader.next_frame(&mut buf).unwrap();
        assert_eq!((info.width, info.height), (3, 2));
        assert_eq!(buf, f.rgb());
        assert_eq!(&buf[..3], [255, 0, 0]);
        assert!(f.ppm().starts_with(b"P6\n3 2\n255\n\xff\0\0"));
    }
}
