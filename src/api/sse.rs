//! Server-sent events: bytes in, data payloads out (WHATWG HTML, section 9.2). Knows nothing of JSON.
//!
//! Invariant: how the bytes are split into chunks never changes what comes out. Holds at most one unfinished event,
//! and its caller bounds the stream as a whole.

/// An incremental decoder of one event stream.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The start of a line whose end has not arrived.
    partial: Vec<u8>,
    /// `data` lines of the event that has not ended yet, joined by newlines.
    data: Vec<u8>,
    has_data: bool,
    begun: bool,
}

impl Decoder {
    /// Takes the next bytes and hands the data of every event that they complete to `sink`, which says whether to go
    /// on. Returns whether it still wants more.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(&[u8]) -> bool) -> bool {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            let more = if self.partial.is_empty() {
                self.line(line, rest, sink)
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                let more = self.line(&whole, rest, sink);
                whole.clear();
                self.partial = whole;
                more
            };
            if !more {
                return false;
            }
        }
        self.partial.extend_from_slice(bytes);
        true
    }

    /// The stream has ended: an event whose last line was whole counts, half a line does not.
    pub fn finish(&mut self, sink: &mut impl FnMut(&[u8]) -> bool) -> bool {
        if self.has_data { self.dispatch(sink) } else { true }
    }

    /// Bytes held for an event that has not ended.
    pub fn held_bytes(&self) -> usize {
        self.partial.len() + self.data.len()
    }

    fn line(&mut self, line: &[u8], rest: &[u8], sink: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let mut line = line.strip_suffix(b"\r").unwrap_or(line);
        if !self.begun {
            self.begun = true;
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return if self.has_data { self.dispatch(sink) } else { true };
        }
        let Some(value) = line.strip_prefix(b"data:") else { return true };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if !self.has_data && rest.first() == Some(&b'\n') {
            // The common case, an event of one line that ends in this chunk, needs no copy.
            return sink(value);
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
        true
    }

    fn dispatch(&mut self, sink: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let more = sink(&self.data);
        self.data.clear();
        self.has_data = false;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> Vec<String> {
        let (mut decoder, mut events) = (Decoder::default(), Vec::new());
        let mut sink = |data: &[u8]| {
            events.push(String::from_utf8_lossy(data).into_owned());
            true
        };
        for chunk in chunks {
            decoder.feed(chunk, &mut sink);
        }
        decoder.finish(&mut sink);
        events
    }

    #[test]
    fn comments_other_fields_and_line_ends_are_understood() {
        let stream =
            b"\xef\xbb\xbf: hello\r\nevent: x\r\ndata: a\r\n\r\ndata:b\ndata: c\nid: 7\n\n\n\nretry: 1\n\ndata: d\n";
        assert_eq!(decode(&[stream]), ["a", "b\nc", "d"]);
        assert_eq!(decode(&[b"data: half a line"]), Vec::<String>::new());
    }

    #[test]
    fn the_sink_can_stop_the_stream() {
        let mut decoder = Decoder::default();
        let mut seen = 0;
        assert!(!decoder.feed(b"data: a\n\ndata: b\n\n", &mut |_| {
            seen += 1;
            false
        }));
        assert_eq!(seen, 1);
    }

    proptest! {
        #[test]
        fn chunk_boundaries_never_matter(
            lines in prop::collection::vec(prop_oneof!["data: [a-z]{0,8}", "data:[a-z]{0,3}", ": [a-z]{0,4}", "", "\r", "data: é\r"], 0..30),
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let stream = lines.join("\n") + "\n";
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&pieces), decode(&[bytes]));
        }
    }
}
