//! Takes one of CMD's output streams apart: its bytes, and the mark that ends it.
//!
//! # Contract
//! - What comes out is exactly what CMD wrote: the mark and everything after it is not.
//! - A byte is held back only while it could be part of the mark; so partial lines come out at once.

/// Finds the end mark in a stream that arrives in arbitrary pieces.
pub(crate) struct EndMark {
    mark: Vec<u8>,
    /// The last bytes that arrived: a proper prefix of the mark.
    held: Vec<u8>,
    ended: bool,
}

impl EndMark {
    /// For a stream that ends with `mark`, which must not be empty.
    pub(crate) fn new(mark: &str) -> EndMark {
        assert!(!mark.is_empty(), "an empty mark would end every stream at once");
        EndMark { mark: mark.as_bytes().to_vec(), held: Vec::new(), ended: false }
    }

    /// Takes the next piece; returns what is CMD's of it.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.ended {
            return Vec::new();
        }
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        if let Some(at) = find(&bytes, &self.mark) {
            self.ended = true;
            bytes.truncate(at);
            return bytes;
        }
        let longest = bytes.len().min(self.mark.len() - 1);
        let hold = (0..=longest).rev().find(|&length| bytes.ends_with(&self.mark[..length])).unwrap_or(0);
        self.held = bytes.split_off(bytes.len() - hold);
        bytes
    }

    /// True once the mark was seen.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// What was held back, when the stream broke off without its mark.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// Says when a stream had a line that contains a text.
pub(crate) struct LineWatch {
    text: Vec<u8>,
    line: Vec<u8>,
}

impl LineWatch {
    /// Longest line that is watched; of a longer one, only the last so many bytes.
    const LONGEST: usize = 64 << 10;

    pub(crate) fn new(text: &str) -> LineWatch {
        LineWatch { text: text.as_bytes().to_vec(), line: Vec::new() }
    }

    /// Takes the next piece; true if it completes a line that contains the text.
    pub(crate) fn take(&mut self, piece: &[u8]) -> bool {
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                if find(&self.line, &self.text).is_some() {
                    return true;
                }
                self.line.clear();
            }
        }
        let excess = self.line.len().saturating_sub(LineWatch::LONGEST);
        self.line.drain(..excess);
        false
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "\u{1}end-aab";

    /// Every way to cut the stream in two gives the same bytes.
    #[test]
    fn mark_is_found_across_pieces() {
        let stream = format!("text\u{1}end-aa\u{1}en{MARK}junk");
        for cut in 0..=stream.len() {
            let mut end = EndMark::new(MARK);
            let mut got = end.take(&stream.as_bytes()[..cut]);
            got.extend(end.take(&stream.as_bytes()[cut..]));
            assert!(end.ended());
            assert_eq!(got, "text\u{1}end-aa\u{1}en".as_bytes(), "cut at {cut}");
        }
    }

    #[test]
    fn bytes_come_one_by_one() {
        let mut end = EndMark::new(MARK);
        let stream = format!("\u{1}\u{1}end-aaab\n{MARK}");
        let got: Vec<u8> = stream.bytes().flat_map(|byte| end.take(&[byte])).collect();
        assert_eq!(got, b"\x01\x01end-aaab\n");
        assert!(end.ended());
    }

    #[test]
    fn a_broken_stream_loses_nothing() {
        let mut end = EndMark::new(MARK);
        let mut got = end.take(b"abc\x01end-");
        assert_eq!(got, b"abc");
        got.extend(end.rest());
        assert_eq!(got, b"abc\x01end-");
        assert!(!end.ended());
    }

    #[test]
    fn prompt_without_newline_is_not_held() {
        assert_eq!(EndMark::new(MARK).take(b"> "), b"> ");
    }

    #[test]
    fn watch_needs_the_whole_line() {
        let mut watch = LineWatch::new("step 3");
        assert!(!watch.take(b"step 2\nst"));
        assert!(!watch.take(b"ep 3 d"));
        assert!(watch.take(b"one\nmore"));
        assert!(!LineWatch::new("step 3").take(b"step 3"));
    }
}
