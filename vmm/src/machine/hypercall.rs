//! Hypercalls: what the guest kernel asks, checked and answered.
//!
//! The mailbox is guest memory: `op`, `args` and `data` are read once, through volatile accessors, and validated before use. The
//! kernel is not trusted with rights; everything that depends on them goes to the [`Monitor`](super::monitor::Monitor).

use super::monitor::Entered;
use super::roots::RootCell;
use super::{Ending, Shared, vcpu};
use kvm_ioctls::VcpuFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use twz_abi::boot::{MAILBOX_GPA, MAX_HARTS};
use twz_abi::hypercall::{DATA_SIZE, EVENTS, KernelEvent, Mailbox, Op};
use twz_abi::resume::{ResumeNote, ResumeSpec};
use twz_abi::sec::{PublicKeyObject, RawCap, RawRevocation};
use twz_abi::syscall::{CREATE_RANGES_MAX, ConsoleMode, CopyRange, CopySpec, CreateSpec, NAME_MAX, Resize};
use twz_abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const STATUS_OFFSET: u64 = std::mem::offset_of!(Mailbox, status) as u64;
const RETS_OFFSET: u64 = std::mem::offset_of!(Mailbox, rets) as u64;
const REVISION_OFFSET: u64 = std::mem::offset_of!(Mailbox, revision) as u64;
const EVENT_COUNT_OFFSET: u64 = std::mem::offset_of!(Mailbox, event_count) as u64;
const EVENTS_OFFSET: u64 = std::mem::offset_of!(Mailbox, events) as u64;
const DATA_OFFSET: u64 = std::mem::offset_of!(Mailbox, data) as u64;

/// Who calls.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    /// The hart's number.
    pub hart: u32,
    /// The root that it is in.
    pub root: u64,
    /// Its vCPU there, which is out of `KVM_RUN`.
    pub vcpu: &'a VcpuFd,
}

impl Caller<'_> {
    fn mailbox(self) -> u64 {
        MAILBOX_GPA + u64::from(self.hart) * PAGE_SIZE
    }
}

type Results = Result<[u64; 4], ErrorCode>;

/// Where a hart goes on after a call: `None` for where it is.
pub(super) type GoesOn = Option<Arc<RootCell>>;

/// Words that the kernel passed.
#[derive(FromBytes, IntoBytes, Clone, Copy)]
#[repr(C)]
struct Request {
    op: u32,
    status: u32,
    args: [u64; 8],
}

impl Shared {
    /// Serves the call that stands in the caller's mailbox.
    pub(super) fn hypercall(&self, caller: Caller<'_>) -> GoesOn {
        let began = Instant::now();
        let mut request = Request::new_zeroed();
        let at = GuestAddress(caller.mailbox());
        if let Err(error) = self.memory.read_slice(request.as_mut_bytes(), at) {
            self.stop(Ending::Broken(format!("mailbox of hart {}: {error}", caller.hart)));
            return None;
        }
        let mut goes_on = None;
        let result = match Op::try_from(request.op) {
            Ok(Op::Switch) => self.monitor().switch(caller.hart, request.args[0]).map(|root| {
                goes_on = Some(root);
                [0; 4]
            }),
            Ok(op) => self.serve(caller, op, request.args),
            Err(_) => Err(ErrorCode::NoSuchCall),
        };
        tracing::trace!(hart = caller.hart, op = request.op, args = ?request.args, ?result, "hypercall");
        let (status, rets) = match result {
            Ok(rets) => (0, rets),
            Err(error) => (error as u32, [0; 4]),
        };
        self.harts[caller.hart as usize].stats.hypercall(began, request.op, status);
        let answered = self
            .memory
            .write_slice(rets.as_bytes(), GuestAddress(caller.mailbox() + RETS_OFFSET))
            .and_then(|()| self.memory.write_obj(status, GuestAddress(caller.mailbox() + STATUS_OFFSET)));
        if let Err(error) = answered {
            self.stop(Ending::Broken(format!("mailbox of hart {}: {error}", caller.hart)));
        }
        goes_on
    }

    fn serve(&self, caller: Caller<'_>, op: Op, a: [u64; 8]) -> Results {
        let id = |at: usize| ObjectId { lo: a[at], hi: a[at + 1] };
        let none = [0; 4];
        // The kernel says which context asks; it can only be one that is in the root the hart is in.
        let context = || self.monitor().check_caller(caller.root, id(0)).map(|()| id(0));
        match op {
            Op::Ready => {
                self.hart_ready(caller.hart, a[0], [a[1], a[2], a[3]], a[4]);
                Ok(none)
            }
            Op::FirstUser => {
                self.note_first_user();
                Ok(none)
            }
            Op::Shutdown => {
                self.stop(Ending::Exit(status_of(a[0])));
                Ok(none)
            }
            Op::Panic => {
                let text = self.data(caller, a[0])?;
                self.stop(Ending::Broken(format!(
                    "kernel panic: {}",
                    String::from_utf8_lossy(&text).escape_debug()
                )));
                Ok(none)
            }
            Op::ConsoleWrite => {
                let bytes = self.data(caller, a[0])?;
                // What a program prints was true then: no failure that is tested comes in between, and nothing is printed after one.
                if a[1] != 0 {
                    self.console.print_kernel_line(&bytes);
                } else if !self.monitor().while_alive(|| self.console.print(&bytes)) {
                    return Err(ErrorCode::WouldBlock);
                }
                Ok(none)
            }
            Op::ConsoleRead => {
                let room = usize::try_from(a[0]).unwrap_or(usize::MAX).min(DATA_SIZE);
                let taken = self.console.take(room);
                if taken.resume {
                    self.wake_loop();
                }
                self.put_data(caller, &taken.bytes)?;
                Ok([taken.bytes.len() as u64, u64::from(taken.ended), 0, 0])
            }
            Op::ConsoleMode => {
                let mode = ConsoleMode::try_from(a[0]).map_err(|_| ErrorCode::BadArgument)?;
                let columns = self.console.set_mode(mode);
                Ok([u64::from(columns.is_some()), u64::from(columns.unwrap_or(0)), 0, 0])
            }
            Op::Clock => {
                let since_start = nanoseconds(self.started.elapsed());
                // A host clock before 1970 reads as 1970.
                let since_1970 =
                    nanoseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
                Ok([since_start, since_1970, 0, 0])
            }
            Op::SetTimer => {
                let delay = (a[0] != u64::MAX).then(|| Duration::from_nanos(a[0]));
                self.harts[caller.hart as usize].timer.set(delay);
                Ok(none)
            }
            Op::Kick => {
                for (number, hart) in self.harts.iter().enumerate() {
                    if a[0] >> number & 1 == 1 {
                        hart.bell.ring(super::wake::KICK);
                    }
                }
                Ok(none)
            }
            Op::Relax => {
                std::thread::yield_now();
                Ok(none)
            }
            Op::Random => {
                let length = usize::try_from(a[0]).ok().filter(|&length| length <= DATA_SIZE);
                let mut bytes = vec![0; length.ok_or(ErrorCode::BadArgument)?];
                getrandom::fill(&mut bytes).map_err(|_| ErrorCode::Medium)?;
                self.put_data(caller, &bytes)?;
                Ok(none)
            }
            Op::Exits => {
                self.put_data(caller, self.exit_counters().as_bytes())?;
                Ok(none)
            }
            Op::SetAlarm => {
                self.set_alarm(Duration::from_nanos(a[0]));
                Ok(none)
            }
            Op::Bind => self
                .monitor()
                .bind(context()?, id(2))
                .map(|(binding, rights)| [binding, u64::from(rights.bits()), 0, 0]),
            Op::Touch => {
                let access =
                    u32::try_from(a[2]).ok().and_then(Rights::from_bits).ok_or(ErrorCode::BadArgument)?;
                let table = self.check_table(a[3])?;
                let (touched, rights) = match self.is_suspect(caller.hart) {
                    false => self.monitor().touch(caller.root, a[0], a[1], access)?,
                    true => self.monitor().touch_suspect(caller.root, a[0], a[1], access)?,
                };
                let rights = u64::from(rights.bits());
                match touched.large {
                    Some(address) => Ok([address, rights, 0, 0]),
                    None => self.fill_table(table, &touched).map(|()| [0, rights, 0, 0]),
                }
            }
            Op::Unbind => self.monitor().unbind(caller.root, a[0]).map(|()| none),
            Op::Create => {
                let (spec, ranges) = self.create_arguments(caller, a[2])?;
                self.monitor().create(context()?, &spec, &ranges).map(|id| [id.lo, id.hi, 0, 0])
            }
            Op::Delete => self.monitor().delete(context()?, id(2)).map(|()| none),
            Op::Stat => {
                let stat = self.monitor().stat(context()?, id(2))?;
                self.put_data(caller, stat.as_bytes())?;
                Ok(none)
            }
            Op::Copy => {
                let bytes = self.data(caller, size_of::<CopySpec>() as u64)?;
                let spec = CopySpec::read_from_bytes(&bytes).map_err(|_| ErrorCode::BadArgument)?;
                self.monitor().copy(context()?, &spec).map(|()| none)
            }
            Op::Tie => self.monitor().tie(context()?, id(2), id(4)).map(|()| none),
            Op::Resize => {
                let resize = Resize::try_from(a[6]).map_err(|_| ErrorCode::BadArgument)?;
                self.monitor().resize(context()?, id(2), a[4], a[5], resize).map(|()| none)
            }
            Op::NameGet => {
                let name = self.name(caller, a[2])?;
                context()?;
                self.programs.bring(&name).map_err(|error| {
                    tracing::error!(%error, name, "a program cannot be brought into the pool");
                    ErrorCode::PoolFull
                })?;
                self.monitor().name_get(&name).map(|id| [id.lo, id.hi, 0, 0])
            }
            Op::NameSet => {
                let name = self.name(caller, a[4])?;
                self.monitor().name_set(context()?, id(2), &name).map(|()| none)
            }
            Op::NameNext => {
                let after = if a[2] == 0 { String::new() } else { self.name(caller, a[2])? };
                context()?;
                let in_pool = self.monitor().name_next(&after).ok();
                let name = self.programs.name_after(&after, in_pool).ok_or(ErrorCode::NoName)?;
                self.put_data(caller, name.as_bytes())?;
                Ok([name.len() as u64, 0, 0, 0])
            }
            Op::NameRemove => {
                let name = self.name(caller, a[2])?;
                context().and_then(|_| self.monitor().name_remove(&name)).map(|()| none)
            }
            Op::TranslationsChanged => {
                context().and_then(|_| self.monitor().translations_changed()).map(|()| none)
            }
            Op::Enter => self.monitor().enter(context()?, id(2)).map(entered_words),
            Op::Leave => self.monitor().leave(a[0]).map(|()| none),
            // Served before: it ends elsewhere.
            Op::Switch => Err(ErrorCode::NoSuchCall),
            Op::Gate => {
                let (entered, gate) = self.monitor().gate(context()?, id(2), a[4])?;
                self.put_data(caller, gate.as_bytes())?;
                Ok(entered_words(entered))
            }
            Op::Revoke => {
                context()?;
                let capability = a[2] == 1;
                let length = size_of::<RawRevocation>() + if capability { size_of::<RawCap>() } else { 0 };
                let bytes = self.data(caller, length as u64)?;
                self.monitor().revoke(&bytes, capability).map(|()| none)
            }
            Op::KeyCreate => {
                let bytes = self.data(caller, size_of::<PublicKeyObject>() as u64)?;
                let public = PublicKeyObject::read_from_bytes(&bytes).map_err(|_| ErrorCode::BadArgument)?;
                self.monitor().create_key(context()?, &public).map(|id| [id.lo, id.hi, 0, 0])
            }
            Op::ResumeSet => {
                let bytes = self.data(caller, size_of::<ResumeSpec>() as u64)?;
                let spec = ResumeSpec::read_from_bytes(&bytes).map_err(|_| ErrorCode::BadArgument)?;
                self.monitor().resume_set(context()?, id(2), a[4], &spec).map(|number| [number, 0, 0, 0])
            }
            Op::ResumeNote => {
                let note = ResumeNote::try_from(a[1]).map_err(|_| ErrorCode::BadArgument)?;
                self.monitor().resume_note(a[0], note).map(|()| none)
            }
            Op::ResumeNext => match self.monitor().resume_next() {
                Some((entered, start)) => {
                    self.put_data(caller, start.as_bytes())?;
                    let [number, root, flags, _] = entered_words(entered);
                    Ok([1, number, root, flags])
                }
                None => Ok(none),
            },
            Op::PmemTrace => {
                let length = u64::read_from_bytes(&self.data(caller, 8)?).unwrap_or(0);
                let length =
                    if length <= NAME_MAX as u64 { length } else { return Err(ErrorCode::BadArgument) };
                let data = self.data(caller, 8 + length)?;
                let site = format!("{}:{}", String::from_utf8_lossy(&data[8..]), a[7]);
                self.monitor().pmem_trace(context()?, id(2), (a[4], a[5]), a[6], &site).map(|()| none)
            }
            Op::Hide => self.monitor().hide(caller.root, a[0]).map(|()| none),
            Op::Vectors => self.exchange_vectors(caller, a[0], a[1]).map(|()| none),
        }
    }

    /// What an object is to be, and `count` ranges that it begins with.
    fn create_arguments(
        &self,
        caller: Caller<'_>,
        count: u64,
    ) -> Result<(CreateSpec, Vec<CopyRange>), ErrorCode> {
        let count = usize::try_from(count).ok().filter(|&count| count <= CREATE_RANGES_MAX);
        let count = count.ok_or(ErrorCode::BadArgument)?;
        let length = size_of::<CreateSpec>() + count * size_of::<CopyRange>();
        let bytes = self.data(caller, length as u64)?;
        let (spec, bytes) = CreateSpec::read_from_prefix(&bytes).map_err(|_| ErrorCode::BadArgument)?;
        let ranges = bytes.chunks_exact(size_of::<CopyRange>()).map(CopyRange::read_from_bytes);
        let ranges: Result<Vec<_>, _> = ranges.collect();
        Ok((spec, ranges.map_err(|_| ErrorCode::BadArgument)?))
    }

    /// Vector state between the caller's vCPU and frames of the kernel's.
    fn exchange_vectors(&self, caller: Caller<'_>, to: u64, from: u64) -> Result<(), ErrorCode> {
        let refused = |what| {
            move |error: kvm_ioctls::Error| {
                tracing::error!(%error, what, hart = caller.hart, "vector state");
                ErrorCode::BadArgument
            }
        };
        if to != 0 {
            let to = self.check_table(to)?;
            let bytes = vcpu::vectors(caller.vcpu).map_err(refused("KVM_GET_XSAVE"))?;
            self.memory.write_slice(&bytes, GuestAddress(to)).map_err(|_| ErrorCode::BadAddress)?;
        }
        if from != 0 {
            let from = self.check_table(from)?;
            let mut bytes = [0; vcpu::VECTOR_BYTES];
            self.memory.read_slice(&mut bytes, GuestAddress(from)).map_err(|_| ErrorCode::BadAddress)?;
            vcpu::set_vectors(caller.vcpu, &bytes).map_err(refused("KVM_SET_XSAVE"))?;
        }
        Ok(())
    }

    /// The kernel's events on this hart since number `seen`, as far as they are still there, for the trace. Returns how many there were ever.
    pub(super) fn note_kernel_events(&self, hart: u32, seen: u64) -> u64 {
        let mailbox = MAILBOX_GPA + u64::from(hart) * PAGE_SIZE;
        let Ok(count) = self.memory.read_obj::<u64>(GuestAddress(mailbox + EVENT_COUNT_OFFSET)) else {
            return seen;
        };
        for number in seen.max(count.saturating_sub(EVENTS as u64))..count {
            let mut event = KernelEvent::new_zeroed();
            let at = mailbox + EVENTS_OFFSET + number % EVENTS as u64 * size_of::<KernelEvent>() as u64;
            if self.memory.read_slice(event.as_mut_bytes(), GuestAddress(at)).is_ok() {
                self.harts[hart as usize].stats.kernel(&event);
            }
        }
        count
    }

    /// Copies `length` bytes out of the data area.
    fn data(&self, caller: Caller<'_>, length: u64) -> Result<Vec<u8>, ErrorCode> {
        let length = usize::try_from(length).ok().filter(|&length| length <= DATA_SIZE);
        let mut bytes = vec![0; length.ok_or(ErrorCode::BadArgument)?];
        self.memory
            .read_slice(&mut bytes, GuestAddress(caller.mailbox() + DATA_OFFSET))
            .map_err(|_| ErrorCode::BadAddress)?;
        Ok(bytes)
    }

    fn put_data(&self, caller: Caller<'_>, bytes: &[u8]) -> Result<(), ErrorCode> {
        self.memory
            .write_slice(bytes, GuestAddress(caller.mailbox() + DATA_OFFSET))
            .map_err(|_| ErrorCode::BadAddress)
    }

    fn name(&self, caller: Caller<'_>, length: u64) -> Result<String, ErrorCode> {
        if length == 0 || length > NAME_MAX as u64 {
            return Err(ErrorCode::BadArgument);
        }
        String::from_utf8(self.data(caller, length)?).map_err(|_| ErrorCode::BadArgument)
    }

    /// Whether a hart was refused an access a moment ago; counts one touch of its.
    fn is_suspect(&self, hart: u32) -> bool {
        let suspects = &self.harts[hart as usize].suspects;
        let is_suspect = suspects.load(Ordering::Relaxed) > 0;
        if is_suspect {
            // Only this hart's thread counts.
            suspects.fetch_sub(1, Ordering::Relaxed);
        }
        is_suspect
    }

    /// A table must be a frame of free RAM: what lies below is read-only to the guest, and so to our writing for it.
    fn check_table(&self, address: u64) -> Result<u64, ErrorCode> {
        let in_free_ram = (self.free_start..self.ram_bytes).contains(&address);
        if in_free_ram && address.is_multiple_of(PAGE_SIZE) {
            Ok(address)
        } else {
            Err(ErrorCode::BadArgument)
        }
    }

    /// Writes the first-stage entries of what was touched into the kernel's table, so that an interpreted ring 0 need not.
    fn fill_table(&self, table: u64, touched: &ept_contexts::Touched) -> Result<(), ErrorCode> {
        const PRESENT_USER_ACCESSED: u64 = 0b10_0101;
        const WRITE_DIRTY: u64 = 0b100_0010;
        let flags = PRESENT_USER_ACCESSED | if touched.writable { WRITE_DIRTY } else { 0 };
        for page in 0..touched.pages {
            let entry = (touched.address + page * PAGE_SIZE) | flags;
            let at = GuestAddress(table + (touched.first_page + page) * 8);
            self.memory.store(entry, at, Ordering::Release).map_err(|_| ErrorCode::BadAddress)?;
        }
        Ok(())
    }
}

/// Writes a new revision into every mailbox, for kernels to see without a call.
pub(super) fn tell_revision(memory: &GuestMemoryMmap, revision: u64) {
    for hart in 0..MAX_HARTS {
        let at = MAILBOX_GPA + u64::from(hart) * PAGE_SIZE + REVISION_OFFSET;
        if let Err(error) = memory.store(revision, GuestAddress(at), Ordering::SeqCst) {
            tracing::error!(%error, hart, "a mailbox cannot be written");
        }
    }
}

fn entered_words(entered: Entered) -> [u64; 4] {
    [u64::from(entered.number), entered.root, u64::from(entered.flags), 0]
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_possible_truncation, reason = "an exit status is 8 bits; the kernel masks it too")]
fn status_of(word: u64) -> u8 {
    word as u8
}
