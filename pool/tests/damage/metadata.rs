//! Objects whose own metadata and table are any bytes, and export files that are any bytes. Shared by the tests and the fuzz
//! targets.

use pmem::sim::Sim;
use pool::{ObjectSpec, Pool};
use std::io::Cursor;
use twz_abi::ObjectId;
use twz_abi::object::{META_MAGIC, META_OFFSET};

const MIB: u64 = 1 << 20;

/// A pool with two objects whose bytes the fuzzer chooses.
pub(crate) struct Nonsense {
    sim: Sim,
    ids: [ObjectId; 2],
    export: Vec<u8>,
}

impl Nonsense {
    pub(crate) fn new() -> Self {
        let sim = Sim::new(16 * MIB);
        let pool = Pool::format(&sim, 16 * MIB, 4096).expect("a new pool");
        let ids = [1, 2].map(|number| {
            let spec = ObjectSpec { nonce: Some([number; 16]), ..ObjectSpec::default() };
            let id = pool.create_object(&spec).expect("room");
            let object = pool.open_object(id).expect("just made");
            object.write(META_OFFSET - 4096, &[0; 8192]).expect("room");
            object.write(4096, &[number; 64]).expect("room");
            id
        });
        let mut export = Vec::new();
        pool.export(&ids, &mut export, &mut |_| {}).expect("memory");
        drop(pool);
        Self { sim, ids, export }
    }

    /// Puts `bytes` at the end of the first object, around its metadata, and reads what there is to read. Then takes them for changes
    /// to an export file. Panics if either is handled wrongly. Puts the pool back.
    pub(crate) fn try_bytes(&self, bytes: &[u8]) {
        self.sim.start_recording();
        self.try_table(bytes);
        self.try_import(bytes);
        let trace = self.sim.take_trace();
        self.sim.rewind(&trace);
    }

    fn try_table(&self, bytes: &[u8]) {
        let pool = Pool::load(&self.sim).expect("a good pool");
        let object = pool.open_object(self.ids[0]).expect("it exists");
        // Magic and version are right, or nothing would be read.
        object.write(META_OFFSET, &META_MAGIC.to_le_bytes()).expect("in place");
        object.write(META_OFFSET + 8, &1u32.to_le_bytes()).expect("in place");
        let (meta, table) = bytes.split_at(bytes.len().min(52));
        object.write(META_OFFSET + 12, meta).expect("in place");
        let table = &table[..table.len().min(4096)];
        object.write(META_OFFSET - table.len() as u64, table).expect("in place");
        let references = object.references().expect("any bytes are a table");
        assert!(references.windows(2).all(|pair| pair[0].index < pair[1].index));
        let graph = pool.graph().expect("any bytes are a graph");
        let (dot, svg) = (graph.to_dot(), graph.to_svg());
        assert!(dot.ends_with("}\n") && svg.ends_with("</svg>\n"));
        assert!(pool.closure(&self.ids).expect("any bytes are a graph").len() <= 2);
        if let Some(pool::Target::Id(from)) = references.first().map(|reference| reference.target.clone()) {
            let count = pool.retarget(self.ids[0], from, self.ids[1]).expect("room");
            assert!(count > 0);
            let still = object.references().expect("still a table");
            assert!(from == self.ids[1] || still.iter().all(|now| now.target != pool::Target::Id(from)));
        }
        object.release_replaced();
        drop(object);
        let again = Pool::load(&self.sim).expect("still good");
        assert_eq!(again.fingerprint(), pool.fingerprint(), "something leaked");
    }

    fn try_import(&self, bytes: &[u8]) {
        let pool = Pool::load(&self.sim).expect("a good pool");
        self.ids.iter().for_each(|&id| pool.delete_object(id).expect("it exists"));
        let mut file = self.export.clone();
        for change in bytes.chunks_exact(4) {
            let at = usize::from(change[0]) << 8 | usize::from(change[1]);
            let len = file.len();
            file[at % len] ^= change[2];
        }
        let changed = file != self.export;
        // The hash keeps accidents out; a hostile file has the right one.
        for right_hash in [false, true] {
            let end = file.len() - 32;
            if right_hash {
                let hash = blake3_of(&file[..end]);
                file[end..].copy_from_slice(&hash);
            }
            match pool.import(&mut Cursor::new(&file), false, &mut |_| {}) {
                Ok(ids) => {
                    assert!(right_hash || !changed, "a damaged file was taken");
                    ids.into_iter().for_each(|id| pool.delete_object(id).expect("just made"));
                }
                Err(_) => assert!(changed, "a good file was refused"),
            }
            let after = Pool::load(&self.sim).expect("still good");
            assert_eq!(after.fingerprint(), pool.fingerprint(), "something leaked");
        }
        assert_eq!(pool.usage().objects, 0, "all or none");
    }
}

fn blake3_of(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}
