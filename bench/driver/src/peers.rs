//! Linux's ways from one process to another, and from an address to memory: one round each, in nanoseconds an operation.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const PAGE: usize = 4096;
/// Files of a sample of [`mappings`].
const FILES: usize = 32;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs `theirs` in a child process and `ours` here, side by side; returns nanoseconds for each of `count`.
fn two_processes(count: u32, theirs: impl FnOnce(), ours: impl FnOnce()) -> io::Result<f64> {
    // SAFETY: the child makes system calls and touches memory that is there; it allocates nothing and exits.
    let child = check(unsafe { libc::fork() })?;
    if child == 0 {
        theirs();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    let begun = Instant::now();
    ours();
    let took = begun.elapsed().as_secs_f64() * 1e9 / f64::from(count);
    // SAFETY: our own child.
    check(unsafe { libc::waitpid(child, ptr::null_mut(), 0) })?;
    Ok(took)
}

fn read(fd: i32, bytes: &mut [u8]) {
    // SAFETY: into a buffer of that length.
    unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) };
}

fn write(fd: i32, bytes: &[u8]) {
    // SAFETY: from a buffer of that length.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

fn close(fds: &[i32]) {
    for fd in fds {
        // SAFETY: our own descriptors, used no more.
        unsafe { libc::close(*fd) };
    }
}

/// A word that two processes wake each other by; an operation is one way.
pub(crate) fn futex_switch(count: u32) -> io::Result<f64> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping where the host likes it disturbs nothing.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, rights, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page stays mapped until both sides are done; zeros are a value.
    let turn = unsafe { &*page.cast::<AtomicU32>() };
    let futex = |operation: i32, value: u32| {
        let none = ptr::null::<libc::timespec>();
        // SAFETY: the word outlives the call; no timeout.
        unsafe { libc::syscall(libc::SYS_futex, turn.as_ptr(), operation, value, none) };
    };
    let play = |mine: u32| {
        for _ in 0..count / 2 {
            while turn.load(Ordering::SeqCst) != mine {
                futex(libc::FUTEX_WAIT, 1 - mine);
            }
            turn.store(1 - mine, Ordering::SeqCst);
            futex(libc::FUTEX_WAKE, 1);
        }
    };
    let took = two_processes(count, || play(1), || play(0));
    // SAFETY: our own mapping, used no more.
    unsafe { libc::munmap(page, PAGE) };
    took
}

/// Two counters in the kernel; an operation is one way.
pub(crate) fn eventfd_switch(count: u32) -> io::Result<f64> {
    // SAFETY: makes a descriptor.
    let there = check(unsafe { libc::eventfd(0, 0) })?;
    // SAFETY: as above.
    let back = check(unsafe { libc::eventfd(0, 0) })?;
    let one = 1_u64.to_ne_bytes();
    let took = two_processes(
        count,
        || {
            (0..count / 2).for_each(|_| {
                read(there, &mut [0; 8]);
                write(back, &one);
            })
        },
        || {
            (0..count / 2).for_each(|_| {
                write(there, &one);
                read(back, &mut [0; 8]);
            })
        },
    );
    close(&[there, back]);
    took
}

/// Two processes on one CPU that give way to each other; an operation is one way.
pub(crate) fn yield_switch(count: u32) -> io::Result<f64> {
    let give_way = || {
        (0..count / 2).for_each(|_| {
            // SAFETY: takes no arguments.
            unsafe { libc::sched_yield() };
        });
    };
    two_processes(count, give_way, give_way)
}

/// A request of 24 bytes and an answer of 16 over a Unix socket, as a gate passes them; an operation is both ways.
pub(crate) fn socket_call(count: u32) -> io::Result<f64> {
    let mut ends = [0; 2];
    // SAFETY: fills in two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr()) })?;
    let took = two_processes(
        count,
        || {
            (0..count).for_each(|_| {
                read(ends[1], &mut [0; 24]);
                write(ends[1], &[0; 16]);
            })
        },
        || {
            (0..count).for_each(|_| {
                write(ends[0], &[0; 24]);
                read(ends[0], &mut [0; 16]);
            })
        },
    );
    close(&ends);
    took
}

/// Samples of nanoseconds a call.
#[derive(Default)]
pub(crate) struct Mappings {
    /// `mmap` of a file in memory, and its first touch.
    pub(crate) map: Vec<f64>,
    /// First touch of a further page.
    pub(crate) touch: Vec<f64>,
    /// `mprotect` of a touched page, to nothing.
    pub(crate) protect: Vec<f64>,
    /// `munmap`.
    pub(crate) unmap: Vec<f64>,
}

/// What Linux takes to make files' pages reachable, and unreachable again: `rounds` samples more.
///
/// # Errors
/// The host's.
pub(crate) fn mappings(samples: &mut Mappings, rounds: usize) -> io::Result<()> {
    let files: Vec<_> = (0..FILES)
        .map(|_| {
            let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile())?;
            file.set_len(2 * PAGE as u64)?;
            Ok(file)
        })
        .collect::<io::Result<_>>()?;
    for _ in 0..rounds {
        let mut pages: Vec<*mut u8> = Vec::new();
        let begun = Instant::now();
        for file in &files {
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping where the host likes it disturbs nothing.
            let page = unsafe {
                libc::mmap(ptr::null_mut(), 2 * PAGE, rights, libc::MAP_SHARED, file.as_raw_fd(), 0)
            };
            if page == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the page was mapped above, and lies in the file.
            unsafe { page.cast::<u8>().write_volatile(1) };
            pages.push(page.cast());
        }
        #[allow(clippy::cast_precision_loss, reason = "a handful of files")]
        let each = |begun: Instant| begun.elapsed().as_secs_f64() * 1e9 / FILES as f64;
        samples.map.push(each(begun));
        let begun = Instant::now();
        // SAFETY: the second page of each mapping.
        pages.iter().for_each(|page| unsafe { page.wrapping_add(PAGE).write_volatile(1) });
        samples.touch.push(each(begun));
        let begun = Instant::now();
        for page in &pages {
            // SAFETY: our own page, which nothing refers to.
            check(unsafe { libc::mprotect(page.cast(), PAGE, libc::PROT_NONE) })?;
        }
        samples.protect.push(each(begun));
        let begun = Instant::now();
        for page in &pages {
            // SAFETY: as above.
            check(unsafe { libc::munmap(page.cast(), 2 * PAGE) })?;
        }
        samples.unmap.push(each(begun));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_does_its_work() {
        type Peer = fn(u32) -> io::Result<f64>;
        let peers: [Peer; 4] = [futex_switch, eventfd_switch, yield_switch, socket_call];
        for peer in peers {
            assert!(peer(16).expect("works on any Linux") > 0.0);
        }
        let mut samples = Mappings::default();
        mappings(&mut samples, 2).expect("works on any Linux");
        for list in [samples.map, samples.touch, samples.protect, samples.unmap] {
            assert!(list.len() == 2 && list.iter().all(|&sample| sample > 0.0));
        }
    }
}
