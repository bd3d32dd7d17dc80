//! First touches of an object for reading, writing and executing, in each order, with each set of rights (late binding).

use crate::callee::{self, CALL, LOAD, STORE};
use crate::{expect, is_refused};
use alloc::format;
use apps::compartment::World;
use apps::mapped::{Mapped, volatile_object};
use sec::Grant;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::{ErrorCode, Rights};
use twz_rt::context::gate_call;

/// What the object holds: a RET, so that it can be called as well.
const CODE: u64 = 0xc3;
/// Kinds of touches, and the right that each needs besides reading.
const TOUCHES: [(u64, Rights); 3] = [(LOAD, Rights::READ), (STORE, Rights::WRITE), (CALL, Rights::EXEC)];
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The view asks for everything each time; what may be touched is what was granted, whatever was touched before.
pub(crate) fn orders(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let callee = world.compartment(shared, &[callee::probe])?;
    let mut slot = FREE_SLOT;
    for bits in 0..8_usize {
        let of = |(index, (_, right)): (usize, &(u64, Rights))| {
            if bits >> index & 1 == 1 { *right } else { Rights::empty() }
        };
        let rights = TOUCHES.iter().enumerate().map(of).fold(Rights::empty(), Rights::union);
        for order in ORDERS {
            let target = volatile_object(world.owner.id())?;
            Mapped::of(target)?.set_word(DATA_OFFSET, CODE);
            if !rights.is_empty() {
                callee.hand_over(&world.owner.grant(&Grant::new(target, callee.id, rights)))?;
            }
            slot += 1;
            let address = callee.map(slot, target) + DATA_OFFSET;
            let held = order.iter().all(|&index| {
                let (touch, right) = TOUCHES[index];
                let result = gate_call(callee.id, 0, [touch, address, CODE]).map(|(value, _)| value);
                // What cannot be read cannot be written or executed: no hardware withholds reading alone.
                if rights.contains(right | Rights::READ) {
                    result == Ok(if touch == LOAD { CODE } else { 0 })
                } else {
                    is_refused(result)
                }
            });
            let letter = |index: usize| ["r", "w", "x"][index];
            let names = order.map(letter).concat();
            let given: alloc::string::String =
                (0..3).filter(|index| bits >> index & 1 == 1).map(letter).collect();
            expect(&format!("granted {given:?}, touched in the order {names}"), held);
        }
    }
    Ok(())
}
