//! Step 2, pointers: 64 bits that mean the same in every program and after every reboot (paper §3.3).

use crate::diary::{Diary, Note};
use crate::{Said, step, text};
use libtwz::fot;
use libtwz::prelude::*;
use twz_rt::view;

/// Follows the pointer to the note, and looks at what it is made of.
pub(crate) fn show(diary: &Object<Diary>) -> Said<()> {
    step(2, "Pointers: they outlive programs, and lead from object to object");
    let found = diary.note.get().map_err(text)?.is_some();
    if !found {
        let note = ObjectBuilder::new().build(Note { tour: PCell::new(diary.tours.get()) }).map_err(text)?;
        diary.tx(|tx| tx.point(&diary.note, Some(&*note))).map_err(text)?;
        println!("   Made a second object, and stored a pointer to it in the diary.");
    } else {
        println!("   The diary holds a pointer that an earlier tour stored.");
    }
    let raw = diary.note.raw();
    let entry = fot::read(diary.window(), raw.index()).map_err(text)?;
    let note = diary.note.resolve().map_err(text)?;
    println!(
        "   Its 64 bits: {:#018x}, entry {} of the diary's FOT and offset {:#x}.",
        raw.0,
        raw.index(),
        raw.offset()
    );
    println!("   That entry names object {}.", entry.target);
    println!(
        "   Followed: the note was written by tour {}, and stands at {:p} today.",
        note.tour.get(),
        note
    );
    // The same object at another address: the pointer does not care.
    let again = view::map_anywhere(entry.target, Rights::READ).ok_or("no free slot")?;
    let elsewhere = again.wrapping_add(raw.offset() as usize).cast::<u64>();
    // SAFETY: the slot maps an object that may be read, and in which a `Note` stands at this offset.
    let same = unsafe { elsewhere.read_volatile() };
    println!(
        "   Mapped a second time, at {elsewhere:p}, it reads {same}: objects have no address of their own."
    );
    if same == note.tour.get() { Ok(()) } else { Err("the two mappings differ".into()) }
}
