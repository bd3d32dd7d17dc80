//! The program `guard`, in a context of its own beside the attack: another program, whose object and whose time no attack may take.

use alloc::format;
use alloc::string::String;
use apps::guard::{Watch, board};
use apps::launch::{self, Home};
use apps::mapped::{BOTH, Mapped};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use twz_rt::abi::{ErrorCode, ObjectId};
use twz_rt::process::{Child, Home as _};
use twz_rt::{Args, sync};

/// The guard's object, for the attacks; zero if there is none.
static OBJECT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Calls and accesses that reached it.
static REACHED: AtomicU64 = AtomicU64::new(0);

/// The object that nobody here may reach.
pub(crate) fn object() -> ObjectId {
    ObjectId { lo: OBJECT[0].load(Ordering::Relaxed), hi: OBJECT[1].load(Ordering::Relaxed) }
}

/// Notes what a call or an access to [`object`] came to; none may come to anything.
pub(crate) fn note<T, E>(outcome: Result<T, E>) {
    REACHED.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
}

/// The guard while it runs.
pub(crate) struct Ward {
    child: Child,
    board: Mapped,
}

impl Ward {
    /// Starts it and waits until it guards.
    ///
    /// # Errors
    /// What [`launch::start`] says.
    pub(crate) fn start(ours: Args) -> Result<Self, ErrorCode> {
        let home = Home::own("guard")?;
        let id = home.object(BOTH)?;
        let board = Mapped::of(id)?;
        let child =
            launch::start("guard", &["guard", &format!("{}", id.lo), &format!("{}", id.hi)], ours, &home)?;
        while board.word(board::READY) == 0 {
            // Not a yield: our priority is higher. It times out.
            let _ = sync::wait(&AtomicU32::new(0), 0, crate::PAUSE);
        }
        OBJECT[0].store(board.word(board::OBJECT), Ordering::Relaxed);
        OBJECT[1].store(board.word(board::OBJECT + 8), Ordering::Relaxed);
        Ok(Self { child, board })
    }

    /// Looks that it has made so far.
    pub(crate) fn checks(&self) -> u64 {
        self.board.word(board::CHECKS)
    }

    /// Ends it; what it found.
    ///
    /// # Errors
    /// How it ended, if not by itself and well; that its object was reached.
    pub(crate) fn end(self) -> Result<Watch, String> {
        self.board.set_word(board::STOP, 1);
        let ended = self.child.wait();
        let word = |offset| self.board.word(offset);
        let watch = Watch {
            checks: word(board::CHECKS),
            longest_gap: word(board::GAP),
            changed_words: word(board::CHANGED),
        };
        let reached = REACHED.load(Ordering::Relaxed);
        if ended.status != 0 || ended.fault.is_some() {
            return Err(format!("the other program was hit: {ended}"));
        }
        if reached > 0 {
            return Err(format!("{reached} calls or accesses reached the other program's object"));
        }
        Ok(watch)
    }
}
