//! Splitting a command line into words, as shells do it.

use alloc::string::String;
use alloc::vec::Vec;

/// A quote that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unterminated;

/// The words of `line`: separated by blanks; `'…'` and `"…"` and `\` keep what they quote; `#` at the start of a word begins a comment.
///
/// # Errors
/// [`Unterminated`].
pub fn split(line: &str) -> Result<Vec<String>, Unterminated> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '#' if word.is_none() => break,
            blank if blank.is_whitespace() => words.extend(word.take()),
            quote @ ('\'' | '"') => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(Unterminated)? {
                        end if end == quote => break,
                        '\\' if quote == '"' => word.push(rest.next().ok_or(Unterminated)?),
                        letter => word.push(letter),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(rest.next().ok_or(Unterminated)?),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_quotes_and_comments() {
        assert_eq!(split("  run  echo a\t# not this").unwrap(), ["run", "echo", "a"]);
        assert_eq!(
            split(r#"a 'b c' "d \" e" f\ g '' h#i"#).unwrap(),
            ["a", "b c", "d \" e", "f g", "", "h#i"]
        );
        assert_eq!(split("").unwrap(), [""; 0]);
        for cut in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(split(cut), Err(Unterminated), "{cut}");
        }
    }
}
