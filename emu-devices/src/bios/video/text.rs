//! Characters: cells, the teletype, strings, scrolling.

use super::*;

/// The attribute of what has none.
const PLAIN: u8 = 0x07;

impl Call<'_> {
    /// Where a text cell is.
    fn cell(&mut self, page: u8, at: u16) -> u32 {
        let segment = self.mode().segment as u32;
        let start = (page & 7) as u32 * self.bda16(PAGE_SIZE) as u32;
        let place = (at >> 8) as u32 * self.columns() as u32 + (at & 0xff) as u32;
        (segment << 4) + ((start + 2 * place) & 0x7fff)
    }

    /// Attribute high, character low.
    pub fn read_cell(&mut self, page: u8, at: u16) -> u16 {
        if self.mode().layout != Layout::Text {
            return 0;
        }
        let cell = self.cell(page, at);
        self.read16(cell)
    }

    /// Puts a character; `None`: with the attribute that is there.
    fn put(&mut self, page: u8, at: u16, character: u8, attribute: Option<u8>) {
        if self.in_vbe_mode() {
            return;
        }
        if self.mode().layout != Layout::Text {
            return self.draw_character(at, character, attribute.unwrap_or(PLAIN));
        }
        let cell = self.cell(page, at);
        match attribute {
            Some(attribute) => self.write16(cell, (attribute as u16) << 8 | character as u16),
            None => self.write8(cell, character),
        }
    }

    /// AH=09h and 0Ah: CX times the character AL, the cursor where it is.
    pub fn write_cells(&mut self) {
        let (page, character) = (self.bh(), self.al());
        let text = self.mode().layout == Layout::Text;
        let attribute = (self.ah() == 0x09 || !text).then(|| self.bl());
        let (columns, rows) = (self.columns(), self.rows());
        let at = self.cursor(page);
        let first = (at >> 8).saturating_mul(columns).saturating_add(at & 0xff);
        let left = (columns * rows).saturating_sub(first);
        for place in first..first + self.cx().min(left) {
            self.put(
                page,
                ((place / columns) << 8) | (place % columns),
                character,
                attribute,
            );
        }
    }

    /// A character as a teletype writes it.
    pub fn teletype(&mut self, character: u8, page: u8, attribute: Option<u8>, colour: u8) {
        let at = self.cursor(page);
        let (mut row, mut column) = (at >> 8, at & 0xff);
        match character {
            0x07 => return,
            0x08 => column = column.saturating_sub(1),
            b'\n' => row += 1,
            b'\r' => column = 0,
            _ => {
                let graphics = self.mode().layout != Layout::Text;
                let attribute = attribute.or(graphics.then_some(colour));
                self.put(page, at, character, attribute);
                column += 1;
            }
        }
        if column >= self.columns() {
            column = 0;
            row += 1;
        }
        let rows = self.rows();
        if row >= rows {
            row = rows - 1;
            let text = self.mode().layout == Layout::Text;
            let last = self.read_cell(page, row << 8);
            let fill = if text { (last >> 8) as u8 } else { 0 };
            let right = self.columns() - 1;
            self.scroll(page, 1, fill, (0, 0), (row, right), true);
        }
        self.set_cursor(page, row << 8 | column);
    }

    /// Writes on the page that is shown.
    pub fn print(&mut self, text: &str) {
        let page = self.bda8(PAGE);
        for byte in text.bytes() {
            self.teletype(byte, page, None, PLAIN);
        }
    }

    /// AH=13h: CX characters at ES:BP.
    pub fn write_string(&mut self) {
        let (how, page, length) = (self.al(), self.bh() & 7, self.cx());
        let each = if how & 2 != 0 { 2 } else { 1 };
        let before = self.cursor(page);
        let mut at = self.dx();
        if at >> 8 == 0xff {
            at = before;
        }
        self.set_cursor(page, at);
        for n in 0..length {
            let source = self.es(self.bp().wrapping_add(n.wrapping_mul(each)));
            let character = self.read8(source);
            let attribute = match each {
                2 => self.read8(source.wrapping_add(1)),
                _ => self.bl(),
            };
            self.teletype(character, page, Some(attribute), attribute);
        }
        if how & 1 == 0 {
            self.set_cursor(page, before);
        }
    }

    /// AH=06h and 07h.
    pub fn scroll_window(&mut self, up: bool) {
        let (lines, fill) = (self.al() as u16, self.bh());
        let page = self.bda8(PAGE);
        let from = (self.ch() as u16, self.cl() as u16);
        let to = (self.dh() as u16, self.dl() as u16);
        self.scroll(page, lines, fill, from, to, up);
    }

    /// Moves the rows of a window by `lines`, or (0, or more than there are) clears it.
    fn scroll(
        &mut self,
        page: u8,
        lines: u16,
        fill: u8,
        (top, left): (u16, u16),
        (bottom, right): (u16, u16),
        up: bool,
    ) {
        let (bottom, right) = (bottom.min(self.rows() - 1), right.min(self.columns() - 1));
        if top > bottom || left > right || self.in_vbe_mode() {
            return;
        }
        let height = bottom - top + 1;
        let lines = if lines == 0 || lines > height {
            height
        } else {
            lines
        };
        if self.mode().layout != Layout::Text {
            return self.scroll_dots((top, left), (bottom, right), lines, fill, up);
        }
        let width = (right - left + 1) as usize;
        let blank = [b' ', fill].repeat(width);
        let mut row = vec![0; 2 * width];
        for n in 0..height {
            let (to, from) = match up {
                true => (top + n, top + n + lines),
                false => (bottom - n, (bottom - n).wrapping_sub(lines)),
            };
            let to = self.cell(page, to << 8 | left);
            if n + lines < height {
                let from = self.cell(page, from << 8 | left);
                self.read(from, &mut row);
                self.write(to, &row);
            } else {
                self.write(to, &blank);
            }
        }
    }
}
