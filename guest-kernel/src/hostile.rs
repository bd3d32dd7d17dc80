//! A kernel that was taken over, for tests: it does for any program what no kernel may do.
//!
//! Built with feature `hostile` only. A program gets the kernel's own powers: any guest-physical address through a page table entry of its
//! choice, any entry of its own tables, any hypercall. What still holds then is the monitor's doing and the second stage's; the program
//! `takeover` tries it.

use crate::arch::{cpu, usercopy};
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::memory::table::{Table, bits, index};
use twz_abi::hypercall::{DATA_SIZE, Op};
use twz_abi::syscall::hostile;
use twz_abi::{ErrorCode, PAGE_SIZE};

/// Where a page is mapped to look at it: entry 386 of the top level, which nothing else uses.
const WINDOW: u64 = 0xffff_c100_0000_0000;
/// Words of a [`hostile::CALL`].
const WORDS: usize = 9;

impl Kernel {
    /// Executes a call of the hostile kernel; `None` if the number is none.
    pub(crate) fn hostile(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        number: u64,
        [first, second, third, fourth]: [u64; 4],
    ) -> Option<crate::Result<(u64, u64)>> {
        let space = self.threads[thread].space;
        Some(match number {
            hostile::PEEK => {
                let mut word = [0; 8];
                let read = |address| usercopy::read(address, &mut word);
                self.at_physical(mailbox, space, first, read).map(|()| (u64::from_le_bytes(word), 0))
            }
            hostile::POKE => self
                .at_physical(mailbox, space, first, |address| usercopy::write(address, &second.to_le_bytes()))
                .map(|()| (0, 0)),
            hostile::WRITABLE => self.allow_everything(mailbox, space, first).map(|()| (0, 0)),
            hostile::CALL => self.raw_hypercall(mailbox, space, [first, second, third, fourth]),
            _ => return None,
        })
    }

    /// Maps the page of a guest-physical address, lets `access` touch that address, and unmaps it.
    fn at_physical(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        physical: u64,
        access: impl FnOnce(u64) -> Result<(), usercopy::CopyFailed>,
    ) -> crate::Result {
        self.load_space(mailbox.hart(), space)?;
        let root = self.space_root(space)?;
        // Made once for a space, and never given back.
        let flags = bits::PRESENT | bits::WRITE | bits::USER | bits::ACCESSED | bits::DIRTY;
        let mut table = root;
        for level in (2..=4).rev() {
            let at = index(WINDOW, level);
            table = match Table::of_entry(table.get(at)) {
                Some(lower) => lower,
                None => {
                    let lower = Table::allocate(&mut self.frames).ok_or(ErrorCode::NoMemory)?;
                    table.set(at, lower.address() | flags);
                    lower
                }
            };
        }
        table.set(index(WINDOW, 1), physical & bits::ADDRESS | flags | bits::NO_EXECUTE);
        cpu::invalidate_page(WINDOW);
        access(WINDOW + physical % PAGE_SIZE).map_err(|_| ErrorCode::BadAddress)
    }

    /// Sets every entry on the way to a program's address to allow everything, whatever the monitor granted.
    fn allow_everything(&mut self, mailbox: Mailbox, space: u32, address: u64) -> crate::Result {
        let mut table = self.space_root(space)?;
        for level in (1..=4).rev() {
            let at = index(address, level);
            let entry = table.get(at);
            if entry & bits::PRESENT == 0 {
                return Err(ErrorCode::BadAddress);
            }
            table.set(at, (entry | bits::WRITE | bits::USER) & !bits::NO_EXECUTE);
            match Table::of_entry(entry) {
                Some(lower) if level > 1 => table = lower,
                _ => break,
            }
        }
        self.drop_everywhere(mailbox);
        Ok(())
    }

    /// Makes a hypercall of the caller's choice: `words` leads to operation and arguments, `data` to what goes into the data area.
    /// [`hostile::SCRATCH`] among the arguments becomes the address of a frame.
    fn raw_hypercall(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        [words, data, length, _]: [u64; 4],
    ) -> crate::Result<(u64, u64)> {
        let mut bytes = [0; WORDS * 8];
        self.copy_in(mailbox, space, words, &mut bytes)?;
        let mut numbers = [0; WORDS];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            *number = u64::from_le_bytes(word);
        }
        let length = usize::try_from(length).ok().filter(|&length| length <= DATA_SIZE);
        let length = length.ok_or(ErrorCode::BadArgument)?;
        let mut to = mailbox;
        self.copy_in(mailbox, space, data, to.data(length))?;
        let scratch = self.frames.allocate().ok_or(ErrorCode::NoMemory)?;
        for number in numbers.iter_mut().filter(|number| **number == hostile::SCRATCH) {
            *number = scratch.address();
        }
        let result = match u32::try_from(numbers[0]) {
            // It would change roots behind the back of what is left of the kernel.
            Ok(op) if op == Op::Switch as u32 => mailbox.switch(numbers[1]).map(|()| [0; 4]),
            Ok(op) => mailbox.raw(op, &numbers[1..]),
            Err(_) => Err(ErrorCode::BadArgument),
        };
        self.frames.free(scratch);
        result.map(|rets| (rets[0], rets[1]))
    }

    fn space_root(&self, space: u32) -> crate::Result<Table> {
        Table::of_entry(self.spaces[space].identity().0 | bits::PRESENT).ok_or(ErrorCode::NoMemory)
    }
}
