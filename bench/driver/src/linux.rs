//! What Linux takes for the same: one round each, in nanoseconds an operation.

use std::ffi::c_void;
use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

const PAGE: usize = 4096;

/// Nanoseconds an operation of `work`, which does `count`.
fn timed(count: u32, work: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(count))
}

/// `getppid`: a system call that does nothing.
pub(crate) fn getppid(count: u32) -> io::Result<f64> {
    timed(count, || {
        for _ in 0..count {
            // SAFETY: takes no arguments and changes nothing.
            black_box(unsafe { libc::syscall(libc::SYS_getppid) });
        }
        Ok(())
    })
}

fn map(fd: i32, bytes: usize) -> io::Result<*mut c_void> {
    let flags = if fd < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
    // SAFETY: a new mapping where the host likes it disturbs nothing.
    let address =
        unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address) }
}

fn unmap(address: *mut c_void, bytes: usize) {
    // SAFETY: the mapping is the caller's own, and nothing refers to it.
    unsafe { libc::munmap(address, bytes) };
}

fn touch(address: *mut c_void, page: usize) {
    let byte = address.cast::<u8>().wrapping_add(page * PAGE);
    // SAFETY: the page lies in a mapping of the caller's.
    unsafe { byte.write_volatile(1) };
}

/// First touches of anonymous memory, page by page: minor faults.
pub(crate) fn minor_fault(count: u32) -> io::Result<f64> {
    let bytes = count as usize * PAGE;
    timed(count, || {
        let address = map(-1, bytes)?;
        (0..count as usize).for_each(|page| touch(address, page));
        unmap(address, bytes);
        Ok(())
    })
}

/// `mmap` of an open file in memory, one touch, `munmap`.
pub(crate) fn map_file(count: u32) -> io::Result<f64> {
    let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile())?;
    file.set_len(PAGE as u64)?;
    timed(count, || {
        for _ in 0..count {
            let address = map(file.as_raw_fd(), PAGE)?;
            touch(address, 0);
            unmap(address, PAGE);
        }
        Ok(())
    })
}

/// A file of a page, in memory.
fn page_file() -> io::Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").or_else(|_| tempfile::NamedTempFile::new())?;
    file.as_file().set_len(PAGE as u64)?;
    Ok(file)
}

fn open(file: &tempfile::NamedTempFile) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().read(true).write(true).open(file.path())
}

/// `open` and `close`.
pub(crate) fn open_close(count: u32) -> io::Result<f64> {
    let file = page_file()?;
    timed(count, || (0..count).try_for_each(|_| open(&file).map(drop)))
}

/// `mmap` and `munmap` of an open file, nothing touched.
pub(crate) fn map_untouched(count: u32) -> io::Result<f64> {
    let file = page_file()?;
    timed(count, || {
        (0..count).try_for_each(|_| map(file.as_raw_fd(), PAGE).map(|address| unmap(address, PAGE)))
    })
}

/// The steps of [`open_map_file`] one by one, each for `count` (descriptors, so a few hundred) mappings: `open` and `mmap`; the first touch;
/// `munmap` and `close`.
pub(crate) fn steps(count: u32) -> io::Result<[f64; 3]> {
    let file = page_file()?;
    let mut mapped = Vec::new();
    let reach = timed(count, || {
        (0..count).try_for_each(|_| {
            let opened = open(&file)?;
            mapped.push((map(opened.as_raw_fd(), PAGE)?, opened));
            Ok(())
        })
    })?;
    let touches = timed(count, || {
        mapped.iter().for_each(|(address, _)| touch(*address, 0));
        Ok(())
    })?;
    let leave = timed(count, || {
        mapped.drain(..).for_each(|(address, _opened)| unmap(address, PAGE));
        Ok(())
    })?;
    Ok([reach, touches, leave])
}

/// What a UNIX program does to reach data by name: `open`, `mmap`, one touch, `munmap`, `close`.
pub(crate) fn open_map_file(count: u32) -> io::Result<f64> {
    let file = page_file()?;
    timed(count, || {
        for _ in 0..count {
            let opened = open(&file)?;
            let address = map(opened.as_raw_fd(), PAGE)?;
            touch(address, 0);
            unmap(address, PAGE);
        }
        Ok(())
    })
}

/// Thread creation and join.
pub(crate) fn thread_create_join(count: u32) -> io::Result<f64> {
    timed(count, || {
        for _ in 0..count {
            let thread = thread::Builder::new().spawn(|| ())?;
            drop(thread.join());
        }
        Ok(())
    })
}

fn futex(word: &AtomicU32, operation: i32, value: u32) {
    let operation = operation | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word outlives the call; no timeout.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, ptr::null::<libc::timespec>()) };
}

fn play(turn: &AtomicU32, mine: u32, rounds: u32) {
    for _ in 0..rounds {
        while turn.load(Ordering::SeqCst) != mine {
            futex(turn, libc::FUTEX_WAIT, 1 - mine);
        }
        turn.store(1 - mine, Ordering::SeqCst);
        futex(turn, libc::FUTEX_WAKE, 1);
    }
}

/// Two threads that wake each other by futex; an operation is one wake-up.
pub(crate) fn futex_wake(count: u32) -> io::Result<f64> {
    let turn = Arc::new(AtomicU32::new(0));
    timed(count, || {
        let other = Arc::clone(&turn);
        let partner = thread::Builder::new().spawn(move || play(&other, 1, count / 2))?;
        play(&turn, 0, count / 2);
        partner.join().map_err(|_| io::Error::other("the partner panicked"))
    })
}

/// Two processes that hand a byte to and fro through pipes; an operation is one way.
pub(crate) fn pipe_switch(count: u32) -> io::Result<f64> {
    let [mut ends_in, mut ends_out] = [[0; 2]; 2];
    for ends in [&mut ends_in, &mut ends_out] {
        // SAFETY: fills in two descriptors.
        if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let hand_over = |from: i32, to: i32| {
        let mut byte = [0_u8; 1];
        // SAFETY: one byte into a buffer of one byte.
        unsafe { libc::read(from, byte.as_mut_ptr().cast(), 1) };
        // SAFETY: one byte from it.
        unsafe { libc::write(to, byte.as_ptr().cast(), 1) };
    };
    // SAFETY: the child only reads, writes and exits; it allocates nothing.
    let child = unsafe { libc::fork() };
    if child == 0 {
        (0..count / 2).for_each(|_| hand_over(ends_in[0], ends_out[1]));
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    let result = timed(count, || {
        // SAFETY: one byte, to start with.
        unsafe { libc::write(ends_in[1], [0_u8].as_ptr().cast(), 1) };
        (0..count / 2 - 1).for_each(|_| hand_over(ends_out[0], ends_in[1]));
        let mut byte = [0_u8; 1];
        // SAFETY: the last byte.
        unsafe { libc::read(ends_out[0], byte.as_mut_ptr().cast(), 1) };
        Ok(())
    });
    // SAFETY: our own child.
    unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
    for fd in ends_in.into_iter().chain(ends_out) {
        // SAFETY: our own descriptors, used no more.
        unsafe { libc::close(fd) };
    }
    result
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_peer_does_its_work() {
        type Peer = fn(u32) -> std::io::Result<f64>;
        let peers: [Peer; 9] = [
            super::getppid,
            super::minor_fault,
            super::map_file,
            super::open_close,
            super::map_untouched,
            super::open_map_file,
            super::thread_create_join,
            super::futex_wake,
            super::pipe_switch,
        ];
        for peer in peers {
            let nanoseconds = peer(16).expect("works on any Linux");
            assert!(nanoseconds > 0.0);
        }
        assert!(super::steps(16).expect("works on any Linux").iter().all(|&ns| ns > 0.0));
    }
}
