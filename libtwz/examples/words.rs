//! Persistent maps whose keys are texts and whose values own memory.
use libtwz::collections::owned::{BTreeMap, HashMap, Release};
use libtwz::collections::{String, Vec};
use libtwz::prelude::{Invariant, ObjectBuilder, PCell, Result, Tx};

/// A value of cells and collections; it says what it gives back when its key is taken out.
#[derive(Default, Invariant)]
#[repr(C)]
struct Word {
    count: PCell<u64>,
    lines: Vec<u64>,
}

impl Release for Word {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.lines.release(tx)
    }
}

#[derive(Default, Invariant)]
#[repr(C)]
struct Book {
    words: BTreeMap<String, Word>,
    authors: HashMap<String, String>,
}

fn main() -> Result<()> {
    let book = ObjectBuilder::new().build(Book::default())?;
    book.authors.insert("Emma", "Jane Austen")?;
    for (line, text) in (1..).zip(["to be or not to be", "not now"]) {
        book.tx(|tx| {
            for word in text.split(' ') {
                let word = book.words.insert_default_in(tx, word)?; // the word's value in place
                tx.set(&word.count, word.count.get() + 1)?;
                word.lines.push_in(tx, line)?;
            }
            Ok(())
        })?;
    }
    for entry in book.words.iter_ref() {
        let (word, value) = entry?;
        println!("{word}: {} times", value.count.get());
    }
    book.words.remove_key("to")?; // with all that its value owns
    let (author, words) = (book.authors.remove("Emma")?, book.words.len());
    println!("{author:?}, {words} other words");
    Ok(())
}
