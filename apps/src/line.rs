//! Editing a line on a terminal that gives single keys: bytes in, what to do and what to show out.
//!
//! # Contract
//! - [`Editor::key`] takes every byte that comes, in pieces of any size: escape sequences and UTF-8 characters may be cut anywhere.
//! - It never shows anything itself: [`Editor::shown`] is the whole line as a terminal of some width needs it, cursor included.
//! - Keys: arrows, Home, End, Delete, Backspace, Ctrl-arrows; Ctrl-A E B F (move), K U W (cut), Y (put back), P N (history), L (clear), D
//!   (delete, or the end on an empty line), C (drop the line), Tab (complete).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What is to be done after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: a part of something longer, or a key without meaning.
    Nothing,
    /// Show the line again.
    Show,
    /// Clear the screen, then show the line.
    Clear,
    /// The line is finished.
    Line(String),
    /// The line was dropped: begin a new one.
    Dropped,
    /// The input is at its end.
    End,
    /// Complete the word before the cursor, with [`Editor::complete`].
    Complete,
}

/// Where in an escape sequence the input is.
#[derive(Clone, Copy, Debug, Default)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Begun,
    /// After ESC [ or ESC O: the last parameter so far.
    Parameter(u32),
}

/// A line that is being edited.
#[derive(Debug, Default)]
pub struct Editor {
    text: String,
    /// A byte offset between characters.
    cursor: usize,
    history: Vec<String>,
    /// The line of the history that is shown; its length for the new line.
    shown: usize,
    /// The new line, while an older one is shown.
    draft: String,
    cut: String,
    escape: Escape,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
}

impl Editor {
    /// An empty line; `history` holds earlier ones, oldest first.
    #[must_use]
    pub fn new(history: Vec<String>) -> Self {
        Self { shown: history.len(), history, ..Self::default() }
    }

    /// Lines so far, oldest first.
    #[must_use]
    pub fn history(&self) -> &[String] {
        &self.history
    }

    /// Adds a line to the history; false if it is empty or the same as the last one.
    pub fn remember(&mut self, line: &str) -> bool {
        let is_new = !line.trim().is_empty() && self.history.last().is_none_or(|last| last != line);
        if is_new {
            self.history.push(line.into());
        }
        self.shown = self.history.len();
        is_new
    }

    /// Takes the next typed byte.
    pub fn key(&mut self, byte: u8) -> Action {
        match (core::mem::take(&mut self.escape), byte) {
            (Escape::None, 0x1b) => self.escape = Escape::Begun,
            (Escape::None, _) => return self.plain(byte),
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Parameter(0),
            (Escape::Begun, b'b') => return self.go_to(self.word_start()),
            (Escape::Begun, b'f') => return self.go_to(self.word_end()),
            (Escape::Begun, _) => {}
            (Escape::Parameter(number), b'0'..=b'9') => {
                self.escape = Escape::Parameter((number * 10 + u32::from(byte - b'0')).min(9999));
            }
            (Escape::Parameter(_), b';') => self.escape = Escape::Parameter(0),
            (Escape::Parameter(number), _) => return self.sequence(number, byte),
        }
        Action::Nothing
    }

    /// The key that an escape sequence with this last parameter and last byte stands for.
    fn sequence(&mut self, parameter: u32, last: u8) -> Action {
        const CTRL: u32 = 5;
        match (last, parameter) {
            (b'A', _) => self.older(),
            (b'B', _) => self.newer(),
            (b'C', CTRL) => self.go_to(self.word_end()),
            (b'D', CTRL) => self.go_to(self.word_start()),
            (b'C', _) => self.go_to(self.next()),
            (b'D', _) => self.go_to(self.previous()),
            (b'H', _) | (b'~', 1 | 7) => self.go_to(0),
            (b'F', _) | (b'~', 4 | 8) => self.go_to(self.text.len()),
            (b'~', 3) => self.remove(self.cursor, self.next()),
            _ => Action::Nothing,
        }
    }

    fn plain(&mut self, byte: u8) -> Action {
        const fn ctrl(letter: u8) -> u8 {
            letter & 0x1f
        }
        const BACKSPACE: u8 = 0x7f;
        match byte {
            b'\r' | b'\n' => {
                let line = self.take();
                return Action::Line(line);
            }
            b'\t' => return Action::Complete,
            b if b == ctrl(b'A') => return self.go_to(0),
            b if b == ctrl(b'E') => return self.go_to(self.text.len()),
            b if b == ctrl(b'B') => return self.go_to(self.previous()),
            b if b == ctrl(b'F') => return self.go_to(self.next()),
            b if b == ctrl(b'P') => return self.older(),
            b if b == ctrl(b'N') => return self.newer(),
            b if b == ctrl(b'K') => return self.cut(self.cursor, self.text.len()),
            b if b == ctrl(b'U') => return self.cut(0, self.cursor),
            b if b == ctrl(b'W') => return self.cut(self.word_start(), self.cursor),
            b if b == ctrl(b'Y') => {
                let cut = self.cut.clone();
                return self.insert(&cut);
            }
            b if b == ctrl(b'L') => return Action::Clear,
            b if b == ctrl(b'C') => {
                self.take();
                return Action::Dropped;
            }
            b if b == ctrl(b'D') && self.text.is_empty() => return Action::End,
            b if b == ctrl(b'D') => return self.remove(self.cursor, self.next()),
            b if b == BACKSPACE || b == ctrl(b'H') => return self.remove(self.previous(), self.cursor),
            0..0x20 => return Action::Nothing,
            _ => self.partial.push(byte),
        }
        let partial = core::mem::take(&mut self.partial);
        match core::str::from_utf8(&partial) {
            Ok(text) => self.insert(text),
            // More is to come.
            Err(error) if error.error_len().is_none() => {
                self.partial = partial;
                Action::Nothing
            }
            Err(_) => Action::Nothing,
        }
    }

    fn take(&mut self) -> String {
        self.cursor = 0;
        self.shown = self.history.len();
        self.draft.clear();
        core::mem::take(&mut self.text)
    }

    fn insert(&mut self, text: &str) -> Action {
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
        Action::Show
    }

    fn remove(&mut self, from: usize, to: usize) -> Action {
        self.text.replace_range(from..to, "");
        self.go_to(from)
    }

    fn cut(&mut self, from: usize, to: usize) -> Action {
        self.cut = self.text[from..to].into();
        self.remove(from, to)
    }

    fn go_to(&mut self, cursor: usize) -> Action {
        self.cursor = cursor;
        Action::Show
    }

    fn next(&self) -> usize {
        self.cursor + self.text[self.cursor..].chars().next().map_or(0, char::len_utf8)
    }

    fn previous(&self) -> usize {
        self.cursor - self.text[..self.cursor].chars().next_back().map_or(0, char::len_utf8)
    }

    fn word_start(&self) -> usize {
        let before = self.text[..self.cursor].trim_end();
        before.rfind(' ').map_or(0, |space| space + 1)
    }

    fn word_end(&self) -> usize {
        let behind = &self.text[self.cursor..];
        let spaces = behind.len() - behind.trim_start().len();
        behind[spaces..].find(' ').map_or(self.text.len(), |space| self.cursor + spaces + space)
    }

    fn older(&mut self) -> Action {
        if self.shown == 0 {
            return Action::Nothing;
        }
        if self.shown == self.history.len() {
            self.draft = self.text.clone();
        }
        self.shown -= 1;
        self.text = self.history[self.shown].clone();
        self.go_to(self.text.len())
    }

    fn newer(&mut self) -> Action {
        if self.shown == self.history.len() {
            return Action::Nothing;
        }
        self.shown += 1;
        self.text = self.history.get(self.shown).unwrap_or(&self.draft).clone();
        self.go_to(self.text.len())
    }

    /// The words up to the cursor: those before the one to complete, and that one.
    #[must_use]
    pub fn words(&self) -> (Vec<&str>, &str) {
        let before = &self.text[..self.cursor];
        let start = before.rfind(' ').map_or(0, |space| space + 1);
        (before[..start].split_whitespace().collect(), &before[start..])
    }

    /// Completes the word before the cursor from `candidates`, which all begin with it: the one there is, or what they have in common. True
    /// if there was nothing to add, so that the choices should be shown.
    pub fn complete(&mut self, candidates: &[String]) -> bool {
        let Some(first) = candidates.first() else { return false };
        let common = candidates.iter().fold(first.as_str(), |common, candidate| {
            let same = common.char_indices().zip(candidate.chars()).find(|((_, a), b)| a != b);
            let end = same.map_or(common.len().min(candidate.len()), |((at, _), _)| at);
            &common[..end]
        });
        let typed = self.words().1.len();
        let rest =
            format!("{}{}", common.get(typed..).unwrap_or(""), if candidates.len() == 1 { " " } else { "" });
        self.insert(&rest);
        rest.is_empty()
    }

    /// What shows `prompt` and the line on a terminal of `columns` (0: unknown), in place of what was shown before. A line that is too long
    /// is shown in part, around the cursor.
    #[must_use]
    pub fn shown(&self, prompt: &str, columns: usize) -> String {
        let columns = if columns == 0 { 80 } else { columns };
        let room = columns.saturating_sub(prompt.chars().count() + 1).max(8);
        let before = self.text[..self.cursor].chars().count();
        let first = before.saturating_sub(room);
        let visible: String = self.text.chars().skip(first).take(room).collect();
        let cursor = prompt.chars().count() + before - first;
        let home = if cursor == 0 { String::new() } else { format!("\x1b[{cursor}C") };
        format!("\r{prompt}{visible}\x1b[K\r{home}")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    /// The line that these keys finish.
    fn typed(editor: &mut Editor, keys: &str) -> String {
        for byte in keys.bytes() {
            if let Action::Line(line) = editor.key(byte) {
                return line;
            }
        }
        panic!("no line: {editor:?}")
    }

    #[test]
    fn editing_keys_edit() {
        let mut editor = Editor::default();
        for (keys, line) in [
            ("ls\r", "ls"),
            ("lx\x7fs\r", "ls"),
            ("s\x01l\r", "ls"),
            ("s\x1b[Hl\x1b[F -a\r", "ls -a"),
            ("s\x1b[1~l\x1b[4~ -a\r", "ls -a"),
            ("abc\x1b[D\x1b[DX\r", "aXbc"),
            ("abc\x1b[D\x1b[D\x1b[CX\r", "abXc"),
            ("abc\x02\x02\x0b\r", "a"),
            ("abc\x02\x15\r", "c"),
            ("one two three\x17four\r", "one two four"),
            ("one two\x17\x01\x19 \r", "two one "),
            ("abc\x01\x04\x1b[3~\r", "c"),
            ("dropped\x03kept\r", "kept"),
            ("one two\x1b[1;5D\x1b[1;5DX\x1b[1;5CY\r", "XoneY two"),
            ("one two\x1bb\x1bbX\x1bf\r", "Xone two"),
            ("gr\u{fc}\u{df}e\x02\x02\x7f!\r", "gr!\u{df}e"),
            ("a\x1b[99;99Qb\x1bzc\x00\r", "abc"),
        ] {
            assert_eq!(typed(&mut editor, keys), line, "{keys:?}");
        }
    }

    #[test]
    fn history_goes_back_and_forth_and_keeps_the_draft() {
        let mut editor = Editor::new(["first".into(), "second".into()].into());
        assert_eq!(typed(&mut editor, "draft\x1b[A\x1b[A\x1b[A\r"), "first");
        assert_eq!(typed(&mut editor, "draft\x1b[A\x1b[B!\r"), "draft!");
        assert_eq!(typed(&mut editor, "\x10\x0e\x1b[B\r"), "");
        assert!(editor.remember("third") && !editor.remember("third") && !editor.remember(" "));
        assert_eq!(typed(&mut editor, "\x1bOA\r"), "third");
        assert_eq!(editor.history().len(), 3);
    }

    #[test]
    fn ctrl_d_ends_an_empty_line_only() {
        let mut editor = Editor::default();
        assert_eq!(editor.key(b'x'), Action::Show);
        assert_eq!(editor.key(4), Action::Show);
        assert_eq!(editor.key(0x7f), Action::Show);
        assert_eq!(editor.key(4), Action::End);
        assert_eq!(editor.key(12), Action::Clear);
        assert_eq!(editor.key(3), Action::Dropped);
    }

    #[test]
    fn completion_adds_what_all_have_in_common() {
        let mut editor = Editor::default();
        "run co".bytes().for_each(|byte| drop(editor.key(byte)));
        assert_eq!(editor.words(), (["run"].into(), "co"));
        assert!(!editor.complete(&["counter".to_string(), "count".to_string()]));
        assert_eq!(editor.words().1, "count");
        assert!(editor.complete(&["counter".to_string(), "count".to_string()]));
        assert!(!editor.complete(&["counter".to_string()]));
        assert!(!editor.complete(&[]));
        assert_eq!(typed(&mut editor, "\r"), "run counter ");
    }

    #[test]
    fn what_is_shown_fits_the_terminal() {
        let mut editor = Editor::default();
        assert_eq!(editor.shown("", 80), "\r\x1b[K\r");
        "0123456789abcdef".bytes().for_each(|byte| drop(editor.key(byte)));
        assert_eq!(editor.shown("> ", 80), "\r> 0123456789abcdef\x1b[K\r\x1b[18C");
        assert_eq!(editor.shown("> ", 13), "\r> 6789abcdef\x1b[K\r\x1b[12C");
        editor.key(1);
        assert_eq!(editor.shown("> ", 13), "\r> 0123456789\x1b[K\r\x1b[2C");
    }
}
