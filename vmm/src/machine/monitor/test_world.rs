//! A monitor to test.

use super::{Limits, Monitor, Parts};
use crate::machine::hart::Timer;
use crate::machine::roots::RootMaker;
use crate::resume::ResumeList;
use ept_contexts::Ram;
use pool::{CreateOptions, ObjectSpec, Pool};
use std::sync::Arc;
use twz_abi::object::DATA_OFFSET;
use twz_abi::sec::CONTEXT_OFFSET;
use twz_abi::syscall::CreateSpec;
use twz_abi::{ObjectId, Rights};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use zerocopy::IntoBytes;

/// Read and write.
pub(super) const BOTH: Rights = Rights::READ.union(Rights::WRITE);

/// A monitor of a small pool, with one context.
pub(super) struct World {
    pub(super) monitor: Monitor,
    pub(super) pool: Arc<Pool>,
    pub(super) context: ObjectId,
    pub(super) root: u64,
    place: tempfile::TempDir,
}

/// A monitor with one context; `None` where there is no KVM, since a context's table is one of KVM's.
pub(super) fn world() -> Option<World> {
    let kvm = vmm_probe::testing::kvm()?;
    let place = tempfile::tempdir().expect("a temporary directory");
    let pool = Pool::create(&place.path().join("pool"), 64 << 20, &CreateOptions::default()).expect("pool");
    let pool = Arc::new(pool);
    let session = pool.create_object(&ObjectSpec::default()).expect("session");
    let context = super::init_context(&pool).expect("context");
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("guest memory");
    let host = memory.get_host_address(GuestAddress(0)).expect("guest memory");
    let ram = Ram { host_address: host as u64, bytes: 1 << 20 };
    let maker = RootMaker::new(kvm, memory, ram);
    let first_root = Arc::new(maker.make().expect("root"));
    let root = first_root.number();
    let limits = Limits {
        window_base: 4 << 30,
        own_bytes: 64 << 20,
        shared_bytes: 64 << 20,
        shared_count: 2,
        tables: 3,
        stretches: 4,
    };
    let monitor = Monitor::new(Parts {
        pool: Arc::clone(&pool),
        session,
        maker,
        first_root,
        limits,
        harts: 1,
        on_revision: Box::new(|_| {}),
        expiry_timer: Timer::new().expect("timer"),
        resume: ResumeList::load(&pool).expect("resume list"),
    })
    .expect("monitor");
    assert!(monitor.enter_first(context).expect("a table").is_some());
    Some(World { monitor, pool, context, root, place })
}

impl World {
    /// The pool's file.
    pub(super) fn path(&self) -> std::path::PathBuf {
        self.place.path().join("pool")
    }

    /// An object of two pages full of `byte`.
    pub(super) fn object(&self, rights: Rights, byte: u8) -> ObjectId {
        let id = self.pool.create_object(&ObjectSpec { rights, ..ObjectSpec::default() }).expect("object");
        self.pool.open_object(id).expect("open").write(DATA_OFFSET, &[byte; 8192]).expect("write");
        id
    }

    /// Four bytes of it.
    pub(super) fn bytes(&self, id: ObjectId, offset: u64) -> [u8; 4] {
        let mut bytes = [0xff; 4];
        self.pool.open_object(id).expect("open").read(offset, &mut bytes).expect("read");
        bytes
    }

    /// A further context, which the first one has created.
    pub(super) fn make_context(&self, shared: bool) -> ObjectId {
        let id = self.monitor.create(self.context, &CreateSpec::default(), &[]).expect("create");
        let header = sec::Context::new_header(false, shared, Rights::all(), 16);
        let object = self.pool.open_object(id).expect("open");
        object.write(CONTEXT_OFFSET, header.as_bytes()).expect("write");
        id
    }
}
