//! The words of a request, borrowed from the read buffer.

/// Where a word lies, relative to the start of its request. 32 bits are enough: a request is at
/// most `request_bytes_max` long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The bytes from `start` to before `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Span { start: start as u32, end: end as u32 }
    }

    /// The bytes at this place.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// A list of words. The parser keeps the spans from request to request, so listing words
/// allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Words<'a> {
    /// The words at `spans` in `bytes`.
    pub fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Words { bytes, spans }
    }

    /// How many words.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The word at `index`, which is below [`Words::len`].
    pub fn get(&self, index: usize) -> &'a [u8] {
        self.spans[index].of(self.bytes)
    }

    /// The words from `index` on.
    pub fn from(&self, index: usize) -> Words<'a> {
        Words { bytes: self.bytes, spans: &self.spans[index..] }
    }

    /// All words in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| span.of(bytes))
    }
}
