//! Console input: threads that wait for it.

use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::thread::State;

/// Bytes of a SYSCALL instruction.
const SYSCALL_BYTES: u64 = 2;

impl Kernel {
    /// Parks `thread`, whose read found nothing, until something may have been typed; it then repeats the call.
    pub(crate) fn wait_for_console(&mut self, thread: u32) {
        let waiting = &mut self.threads[thread];
        waiting.state = State::WaitsForConsole;
        waiting.frame.rip = waiting.frame.rip.wrapping_sub(SYSCALL_BYTES);
        waiting.next = self.console_readers.take();
        self.console_readers = Some(thread);
    }

    /// Lets every waiting reader try again.
    pub(crate) fn wake_console_readers(&mut self, mailbox: Mailbox) {
        let mut next = self.console_readers.take();
        while let Some(thread) = next {
            next = self.threads[thread].next.take();
            self.enqueue(mailbox, thread);
        }
    }
}
