//! The event loop: signals, typed input, timers. It runs in the main thread while each hart has its own.

use super::Shared;
use super::console::Filled;
use super::wake::{KICK, TIMER};
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use vmm_sys_util::epoll::EventSet;

const STDIN: u32 = 0;
const SIGNAL: u32 = 1;
const WAKE: u32 = 2;
const ALARM: u32 = 3;
const EXPIRY: u32 = 4;
const FIRST_TIMER: u32 = 5;

/// Signals that end the machine in good order.
const STOP_SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// A descriptor from which blocked stop signals are read. Made before any thread, so that all inherit the mask.
///
/// # Errors
/// The host's.
pub(super) fn block_stop_signals() -> io::Result<OwnedFd> {
    // SAFETY: an all-zero set is a valid argument for `sigemptyset`, which fills it in.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in STOP_SIGNALS {
        // SAFETY: as above; the signals exist.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: as above.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: as above.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

struct Loop {
    shared: Arc<Shared>,
    signals: OwnedFd,
    reads_stdin: bool,
}

/// Whether one of them waits to be read.
pub(super) fn is_signalled(signals: &OwnedFd) -> bool {
    let mut waiting = libc::pollfd { fd: signals.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, ours, and no waiting.
    unsafe { libc::poll(&raw mut waiting, 1, 0) > 0 }
}

impl Loop {
    fn watch_stdin(&mut self, ops: &mut EventOps<'_>) {
        let event = Events::with_data_raw(libc::STDIN_FILENO, STDIN, EventSet::IN);
        match ops.add(event) {
            Ok(()) => self.reads_stdin = true,
            // A regular file or /dev/null cannot be polled, and never makes a reader wait either: read it as it is.
            Err(_) => while self.shared.console.fill() == Filled::More {},
        }
    }

    fn read_signal(&self) -> Option<i32> {
        // SAFETY: plain data, filled in by `read`.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of_val(&info);
        // SAFETY: `info` is ours and `size` bytes long.
        let count = unsafe { libc::read(self.signals.as_raw_fd(), (&raw mut info).cast(), size) };
        usize::try_from(count).is_ok_and(|count| count == size).then(|| info.ssi_signo.cast_signed())
    }
}

impl MutEventSubscriber for Loop {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let shared = Arc::clone(&self.shared);
        let mut watch = |fd: RawFd, data| {
            // Fails only when the descriptor is closed or watched twice, which would be our bug.
            ops.add(Events::with_data_raw(fd, data, EventSet::IN))
                .expect("a descriptor of our own can be watched");
        };
        watch(self.signals.as_raw_fd(), SIGNAL);
        watch(shared.wake_loop.as_raw_fd(), WAKE);
        watch(shared.alarm.descriptor(), ALARM);
        watch(shared.monitor.expiry_timer().descriptor(), EXPIRY);
        for (data, hart) in (FIRST_TIMER..).zip(&shared.harts) {
            watch(hart.timer.descriptor(), data);
        }
        self.watch_stdin(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            STDIN => {
                let filled = self.shared.console.fill();
                if filled == Filled::Leave {
                    // What Ctrl-C means where the terminal makes a signal of it.
                    self.shared.stop(super::Ending::Signal(libc::SIGINT));
                }
                if filled != Filled::More {
                    let event = Events::with_data_raw(libc::STDIN_FILENO, STDIN, EventSet::IN);
                    // It was added in `watch_stdin`.
                    let _ = ops.remove(event);
                    self.reads_stdin = false;
                }
                self.shared.ring_all(KICK);
            }
            SIGNAL => {
                while let Some(signal) = self.read_signal() {
                    tracing::info!(signal, "stopping");
                    self.shared.stop(super::Ending::Signal(signal));
                }
            }
            // The loop's condition is looked at after every event; input may have room again.
            WAKE => {
                drop(self.shared.wake_loop.read());
                if !self.reads_stdin && self.shared.console.wants_input() {
                    self.watch_stdin(ops);
                    self.shared.ring_all(KICK);
                }
            }
            ALARM => {
                self.shared.alarm.clear();
                if let Some(hart) = self.shared.harts.first() {
                    hart.bell.ring(KICK);
                }
            }
            EXPIRY => self.shared.monitor.expire(),
            timer => {
                if let Some(hart) = self.shared.harts.get((timer - FIRST_TIMER) as usize) {
                    hart.timer.clear();
                    hart.bell.ring(TIMER);
                }
            }
        }
    }
}

/// Runs until the machine stops.
///
/// # Errors
/// The host's, as text.
pub(super) fn run(shared: &Arc<Shared>, signals: OwnedFd) -> Result<(), String> {
    let mut manager =
        EventManager::<Loop>::new().map_err(|error| format!("cannot make an event loop: {error:?}"))?;
    manager.add_subscriber(Loop { shared: Arc::clone(shared), signals, reads_stdin: false });
    while shared.ending().is_none() {
        match manager.run() {
            Ok(_) => {}
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(format!("the event loop failed: {error:?}")),
        }
    }
    Ok(())
}
