//! Watching a right: a thread of the context reads the object until that is refused.

use crate::grant::sign;
use crate::{Said, about, find_context, nothing_left, signer, wanted};
use apps::compartment::World;
use apps::context_object::ContextObject;
use apps::keys::find;
use apps::mapped::{BOTH, Mapped, volatile_object};
use apps::options::Options;
use apps::probe;
use core::sync::atomic::AtomicU32;
use twz_rt::abi::fault::FaultFrame;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::{fault, println, sync, syscall};

/// Words of the board that both threads see: reads so far, and whether one was refused.
const READS: u64 = DATA_OFFSET;
const REFUSED: u64 = DATA_OFFSET + 8;
/// Nanoseconds between two reads.
const PAUSE_NS: u64 = 5_000_000;

pub(crate) fn watch(mut options: Options) -> Said<()> {
    let key = signer(&mut options)?;
    let (name, target) = (wanted(options.word())?, wanted(options.word())?);
    nothing_left(&options)?;
    let id = find_context(name)?;
    let target = find("context", target).map_err(about(target))?;
    // SAFETY: the handler takes no lock; a fault that is no probe's ends its thread.
    unsafe { fault::set_handler(handle) };
    let world = World::with_key(key).map_err(about("the program's view"))?;
    let object = ContextObject::open(id, BOTH).map_err(about(name))?;
    let compartment = world.furnish(object).map_err(about(name))?;
    compartment.handle_faults();
    let board_id = volatile_object(world.owner.id()).map_err(about("the board"))?;
    let board = Mapped::of(board_id).map_err(about("the board"))?;
    compartment.hand_over(&sign(&world.owner, board_id, id, BOTH)?).map_err(about(name))?;
    let address = compartment.map(FREE_SLOT, board_id);
    compartment.map(FREE_SLOT + 1, target);
    compartment.start(reader, address).map_err(about(name))?;
    let mut said = false;
    while board.word(REFUSED) == 0 {
        pause();
        if !said && board.word(READS) > 0 {
            println!("reading");
            said = true;
        }
    }
    println!("refused after {} reads", board.word(READS));
    Ok(())
}

fn handle(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        syscall::thread_exit(1);
    }
}

/// In the context: the board's slot, and the object in the slot behind.
extern "C" fn reader(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    for reads in 1.. {
        if probe::load(argument + SLOT_SIZE + DATA_OFFSET).is_err() {
            break;
        }
        board.set_word(READS, reads);
        pause();
    }
    board.set_word(REFUSED, 1);
    syscall::thread_exit(0)
}

fn pause() {
    let never = AtomicU32::new(0);
    // It always times out.
    let _ = sync::wait(&never, 0, PAUSE_NS);
}
