//! What signing, verifying, deciding and remembering cost: `cargo run --release -p sec --example cost`.

use sec::abi::{CONTEXT_OFFSET, RawCap};
use sec::{
    CacheKey, Context, Freshness, Grant, GrantCache, KeyFacts, KeyPair, Keys, ObjectBytes, ObjectFacts,
    Request, Revocations, Standing, decide, verify,
};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;
use twz_abi::{ObjectId, Rights};
use zerocopy::IntoBytes;

struct Ring(BTreeMap<ObjectId, KeyFacts>);

impl Keys for Ring {
    fn key(&self, id: ObjectId) -> Option<KeyFacts> {
        self.0.get(&id).copied()
    }
}

struct Bytes(Vec<u8>);

impl ObjectBytes for Bytes {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start.checked_add(into.len()).and_then(|end| self.0.get(start..end));
        range.is_some_and(|bytes| {
            into.copy_from_slice(bytes);
            true
        })
    }
}

/// Prints the median time of `work`.
fn measure<T>(what: &str, mut work: impl FnMut() -> T) {
    let mut times: Vec<_> = (0..401)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("{what:44} {:>10.2?}  (p90 {:.2?})", times[200], times[360]);
}

fn main() {
    let owner = KeyPair::new(&[1; 32]);
    let holder = KeyPair::new(&[2; 32]);
    let keys = [&owner, &holder]
        .map(|key| (key.id(), KeyFacts { facts: key.object_facts(), object: key.public_object() }));
    let keys = Ring(BTreeMap::from(keys));
    let target = ObjectFacts::new([3; 16], owner.id(), Rights::empty());
    let context = ObjectFacts::new([4; 16], holder.id(), Rights::empty()).id;
    let grant = |links| Grant::new(target.id, context, Rights::READ).delegable(holder.id(), links);
    let mut chain: Vec<RawCap> = vec![owner.grant(&grant(20))];
    for links in (13..20).rev() {
        let Ok(link) = holder.delegate(&chain[0], &grant(links)) else { return };
        chain.insert(0, link);
    }
    let revocations = Revocations::default();
    let request =
        Request { target: &target, accessor: context, now: 1, keys: &keys, revocations: &revocations };
    let root = &chain[chain.len() - 1..];

    let mut bytes = Bytes(vec![0; 0x6000 + 64 * 256]);
    let header = Context::new_header(false, false, Rights::all(), 64);
    let start = usize::try_from(CONTEXT_OFFSET).unwrap_or_default();
    bytes.0[start..start + 64].copy_from_slice(header.as_bytes());
    let Ok(read) = Context::read(&bytes) else { return };
    if let Ok(slot) = read.slot_for(&bytes, &root[0]) {
        let slot = usize::try_from(slot).unwrap_or_default();
        bytes.0[slot..slot + 256].copy_from_slice(root[0].as_bytes());
    }
    let standing = Standing { creation: Rights::empty(), mask: Rights::all() };
    let fresh = Freshness { change: 0, generation: 1, now: 1 };
    let key = CacheKey { context, object: target.id };
    let mut cache = GrantCache::new(1024);
    cache.put(key, decide(&read, &bytes, &standing, &request), fresh);

    measure("sign a capability", || owner.grant(&grant(0)));
    measure("verify a capability", || verify(root, &request));
    measure("verify a chain of 8", || verify(&chain, &request));
    measure("decide: no capability", || {
        let nobody = Request { accessor: ObjectId::from_u128(1), ..request };
        decide(&read, &bytes, &standing, &nobody)
    });
    measure("decide: one capability", || decide(&read, &bytes, &standing, &request));
    measure("decide: remembered", || cache.get(key, fresh).is_some());
}
