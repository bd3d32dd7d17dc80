//! Step 3, late binding: a view says what a program would like, the security context what it may, and the access itself is what counts
//! (paper §3.4).

use crate::{Said, step, text};
use apps::probe;
use twz_rt::abi::Rights;
use twz_rt::abi::fault::FaultCause;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::{println, syscall, view};

/// Asks for everything, reads, and is refused to write.
pub(crate) fn show() -> Said<()> {
    step(3, "Late binding: rights are checked at each access, by the MMU");
    let key = syscall::name_get("key/owner").map_err(text)?;
    let base =
        view::map_anywhere(key, Rights::READ | Rights::WRITE).ok_or("no free slot")? as u64 + DATA_OFFSET;
    println!("   The public key of this pool's owner is object {key}.");
    println!(
        "   Everybody may read it, nobody may write it. The view asks for both; mapping it was one store, no call."
    );
    let word =
        probe::load(base).map_err(|fault| alloc::format!("it cannot be read: fault {}", fault.cause))?;
    let letters = word.to_le_bytes();
    println!("   A load at {base:#x} gives {:?}.", core::str::from_utf8(&letters).unwrap_or("bytes"));
    // SAFETY: if the store worked, the system would be broken; nothing here depends on the key.
    match unsafe { probe::store(base, 0) } {
        Ok(()) => Err("the store was let through".into()),
        Err(fault) => {
            let cause = FaultCause::try_from(fault.cause).map_or("unknown", FaultCause::name);
            println!(
                "   A store there: fault {cause}, write to object {} at offset {:#x}.",
                fault.object, fault.offset
            );
            println!("   The kernel told this program's handler, and the tour goes on.");
            let after = probe::load(base).ok();
            if after == Some(word) { Ok(()) } else { Err("the word changed".into()) }
        }
    }
}
