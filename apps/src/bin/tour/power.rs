//! Step 5, power failure: a change of several words is all or nothing, whenever the power goes (paper §3.5).

use crate::diary::{Diary, TOTAL};
use crate::{Said, step, text};
use libtwz::persist;
use libtwz::prelude::*;
use twz_rt::syscall;

/// What a transfer moves.
const AMOUNT: u64 = 10;
/// What the transfers of one tour need.
const LEAST: u64 = 2 * AMOUNT;

/// Shows what the last tour's cut left, aborts a transfer, and cuts the power in the middle of another.
pub(crate) fn show(diary: &Object<Diary>, stay: bool) -> Said<()> {
    step(5, "Power failure: all or nothing");
    let accounts = || (diary.left.get(), diary.right.get());
    if diary.left.get() < LEAST {
        // Many tours later: begin anew.
        let full = diary.tx(|tx| {
            tx.put(&diary.left, TOTAL)?;
            tx.put(&diary.right, 0)
        });
        full.map_err(text)?;
    }
    let (left, right) = accounts();
    println!("   Two accounts in the diary: left {left}, right {right}; together they always have {TOTAL}.");
    if diary.cut.get() != 0 {
        println!("   The last tour took {AMOUNT} from left, and the power went before right had them.");
        println!("   When the diary was opened, the log put left back: nothing is missing.");
    }
    if left + right != TOTAL {
        return Err("the accounts do not add up".into());
    }
    // 1. A transfer that changes its mind.
    let aborted = diary.tx(|tx| {
        tx.set(&diary.left, left - AMOUNT)?;
        println!(
            "   A transfer takes {AMOUNT} from left: left {}, right {}. It is aborted …",
            diary.left.get(),
            diary.right.get()
        );
        Err::<(), _>(Error::Aborted)
    });
    if aborted != Err(Error::Aborted) || accounts() != (left, right) {
        return Err("the aborted transfer left a trace".into());
    }
    println!("   … left {}, right {}: as if it had never been.", diary.left.get(), diary.right.get());
    // 2. One that is done.
    let done = diary.tx(|tx| {
        tx.set(&diary.left, left - AMOUNT)?;
        tx.set(&diary.right, right + AMOUNT)?;
        tx.set(&diary.cut, u64::from(!stay))
    });
    done.map_err(text)?;
    println!("   Another is committed: left {}, right {}.", diary.left.get(), diary.right.get());
    if stay {
        println!("\nThat was the tour. In a machine of its own it ends with a power cut: twzvmm … -- tour");
        return Ok(());
    }
    // 3. One in the middle of which the machine ends.
    println!("   The third takes {AMOUNT} from left, and there the power fails. Run the tour again to see.");
    let cut = diary.tx(|tx| {
        tx.set(&diary.left, diary.left.get() - AMOUNT)?;
        // `twzvmm --power-cut SEED --power-cut-at tour/power.rs` lets the power fail here, at the only fence of this file: of what is not durable by
        // now, a random part is lost.
        persist::fence();
        // Elsewhere the machine is switched off. Not this transaction: it is found open by whoever opens the diary next.
        syscall::shutdown(0).map_err(|_| Error::Aborted)?;
        loop {
            syscall::thread_yield();
        }
    });
    cut.map_err(text)
}
