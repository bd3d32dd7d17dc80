//! The console: threads that wait for input, or for room in the output. Nobody waits for a reader of the output with the kernel's lock held.

use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::thread::State;

/// Bytes of a SYSCALL instruction.
const SYSCALL_BYTES: u64 = 2;

impl Kernel {
    /// Parks `thread`, whose read found nothing or whose text did not fit, until a hart is kicked; it then repeats the call.
    pub(crate) fn wait_for_console(&mut self, thread: u32) {
        let waiting = &mut self.threads[thread];
        waiting.state = State::WaitsForConsole;
        waiting.frame.rip = waiting.frame.rip.wrapping_sub(SYSCALL_BYTES);
        waiting.next = self.console_waiters.take();
        self.console_waiters = Some(thread);
    }

    /// Lets everybody who waits try again.
    pub(crate) fn wake_console_waiters(&mut self, mailbox: Mailbox) {
        let mut next = self.console_waiters.take();
        while let Some(thread) = next {
            next = self.threads[thread].next.take();
            self.enqueue(mailbox, thread);
        }
    }
}
