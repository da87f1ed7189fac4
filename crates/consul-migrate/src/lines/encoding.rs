//! The text of an export that a shell or an editor has written again: with a byte order mark, or in UTF-16.

use std::io::{self, BufRead, Read};

/// The most bytes that are decoded at once.
const PART: usize = 8192;

/// The first bytes of what gzip has compressed.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// How the characters of a file are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

impl Encoding {
    /// That of a text which begins with these bytes, and the length of its mark. The first character is ASCII.
    pub fn of(begin: &[u8]) -> (Encoding, usize) {
        match begin {
            [0xef, 0xbb, 0xbf, ..] => (Encoding::Utf8, 3),
            [0xff, 0xfe, ..] => (Encoding::Utf16Le, 2),
            [0xfe, 0xff, ..] => (Encoding::Utf16Be, 2),
            [1..=0x7f, 0, ..] => (Encoding::Utf16Le, 0),
            [0, 1..=0x7f, ..] => (Encoding::Utf16Be, 0),
            _ => (Encoding::Utf8, 0),
        }
    }

    fn unit(self, bytes: [u8; 2]) -> u16 {
        match self {
            Encoding::Utf16Be => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        }
    }

    /// The text in UTF-8. A part that is not of the encoding becomes U+FFFD.
    pub fn decode(self, text: &[u8]) -> Vec<u8> {
        if self == Encoding::Utf8 {
            return text.to_vec();
        }
        let (pairs, rest) = text.as_chunks::<2>();
        let units = pairs.iter().map(|pair| self.unit(*pair));
        let mut decoded = String::new();
        let chars = char::decode_utf16(units).map(|it| it.unwrap_or(char::REPLACEMENT_CHARACTER));
        decoded.extend(chars);
        if !rest.is_empty() {
            decoded.push(char::REPLACEMENT_CHARACTER);
        }
        decoded.into_bytes()
    }
}

/// Reads a text as UTF-8, however it is encoded.
pub(super) struct Decoded<'a> {
    from: &'a mut dyn BufRead,
    encoding: Encoding,
    /// Bytes in UTF-8 that are not read yet, from this place on.
    ready: Vec<u8>,
    at: usize,
    /// The lines that are decoded.
    lines: usize,
}

impl<'a> Decoded<'a> {
    pub fn new(from: &'a mut dyn BufRead) -> io::Result<Self> {
        let mut begin = Vec::new();
        (&mut *from).take(3).read_to_end(&mut begin)?;
        if begin.starts_with(GZIP) {
            return Err(io::Error::other("it is compressed with gzip: decompress it first"));
        }
        let (encoding, mark) = Encoding::of(&begin);
        let mut decoded = Decoded { from, encoding, ready: Vec::new(), at: 0, lines: 0 };
        let rest = &begin[mark..];
        decoded.ready = match encoding {
            Encoding::Utf8 => rest.to_vec(),
            _ => decoded.part(rest)?,
        };
        Ok(decoded)
    }

    /// Some more text after these bytes, which have been read.
    fn part(&mut self, begin: &[u8]) -> io::Result<Vec<u8>> {
        let mut part = begin.to_vec();
        let even = PART - begin.len();
        (&mut *self.from).take(even as u64).read_to_end(&mut part)?;
        // A character of two units is not divided.
        let last = part.rchunks_exact(2).next().map(|it| self.encoding.unit([it[0], it[1]]));
        if part.len() == PART && last.is_some_and(|unit| (0xd800..0xdc00).contains(&unit)) {
            (&mut *self.from).take(2).read_to_end(&mut part)?;
        }
        let decoded = self.encoding.decode(&part);
        let (pairs, rest) = part.as_chunks::<2>();
        let units = pairs.iter().map(|pair| self.encoding.unit(*pair));
        for character in char::decode_utf16(units) {
            match character {
                Ok('\n') => self.lines += 1,
                Ok(_) => {}
                Err(_) => return Err(self.not_utf_16()),
            }
        }
        if rest.is_empty() { Ok(decoded) } else { Err(self.not_utf_16()) }
    }

    /// Two keys with different faults would become one.
    fn not_utf_16(&self) -> io::Error {
        let why = format!("line {} is not UTF-16: it has half a character", self.lines + 1);
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}

impl Read for Decoded<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(to)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Decoded<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at < self.ready.len() {
            return Ok(&self.ready[self.at..]);
        }
        if self.encoding == Encoding::Utf8 {
            return self.from.fill_buf();
        }
        (self.ready, self.at) = (self.part(&[])?, 0);
        Ok(&self.ready)
    }

    fn consume(&mut self, count: usize) {
        match self.at < self.ready.len() {
            true => self.at += count,
            false => self.from.consume(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each encoding, with and without its mark, of texts of each length around a part.
    #[test]
    fn a_text_is_read_however_it_is_encoded() {
        let both = |unit: u16| [unit.to_le_bytes(), unit.to_be_bytes()];
        for filled in (0..4).chain(PART / 2 - 4..PART / 2 + 4) {
            for text in ["", "[]\n", "[\"größe 東京 😀\"]", "{\"lines\":3}\r\n\r\n"] {
                let text = format!("{text}{}😀", " ".repeat(filled));
                let text =
                    if filled == 0 { text.trim_end_matches('😀').to_owned() } else { text };
                let units = |at: usize| text.encode_utf16().flat_map(move |it| both(it)[at]);
                let (le, be): (Vec<u8>, Vec<u8>) = (units(0).collect(), units(1).collect());
                let marked = |mark: &[u8], text: &[u8]| [mark, text].concat();
                let mut all = vec![
                    text.as_bytes().to_vec(),
                    marked(&[0xef, 0xbb, 0xbf], text.as_bytes()),
                    marked(&[0xff, 0xfe], &le),
                    marked(&[0xfe, 0xff], &be),
                ];
                if text.starts_with(|first: char| first.is_ascii()) {
                    all.extend([le, be]);
                }
                for encoded in all {
                    for at_once in [1, 3, 1 << 20] {
                        let mut from = io::BufReader::with_capacity(at_once, &encoded[..]);
                        let mut read = String::new();
                        let decoded = Decoded::new(&mut from).unwrap().read_to_string(&mut read);
                        assert_eq!((decoded.unwrap(), &read), (text.len(), &text), "{encoded:?}");
                        let (encoding, mark) = Encoding::of(&encoded);
                        assert_eq!(encoding.decode(&encoded[mark..]), text.as_bytes());
                    }
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_not_utf_16_is_refused_with_its_line() {
        let faults = [&[0][..], &[0, 0xd8], &[0, 0xdc, b']', 0], &[0x3d, 0xd8, b'a', 0]];
        for (fault, lines) in faults.into_iter().flat_map(|it| [(it, 0), (it, 2), (it, 9000)]) {
            let text = [&b"[\0"[..], &b"\n\0".repeat(lines), fault].concat();
            let mut from = &text[..];
            let refused =
                Decoded::new(&mut from).and_then(|mut it| it.read_to_string(&mut String::new()));
            let why = refused.unwrap_err().to_string();
            assert!(why.contains(&format!("line {} is not UTF-16", lines + 1)), "{fault:?}: {why}");
        }
    }
}
