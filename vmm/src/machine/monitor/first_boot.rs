//! What the first boot makes: the owner's key and the context of the first program.
//!
//! # Contract
//! - **Commit point**: the pool root [`INIT_CONTEXT_RECORD`]. A boot that was cut short before it leaves objects that nothing refers to, and the
//!   next one begins anew.
//! - The context may do everything to itself and use the owner's key, by capabilities in its own table signed by that key. The VMM
//!   forgets the secret; it stands in an object that only this context can read.

use super::facts::Bytes;
use pool::{Error as PoolError, ObjectSpec, Pool};
use sec::{Context, Grant, KeyPair, creation_nonce};
use twz_abi::object::DATA_OFFSET;
use twz_abi::program::INIT_CONTEXT_RECORD;
use twz_abi::sec::CONTEXT_OFFSET;
use twz_abi::{ObjectId, Rights};
use zerocopy::IntoBytes;

/// Names of what the first boot makes.
const CONTEXT_NAME: &str = "context/init";
const KEY_NAME: &str = "key/owner";
const SECRET_NAME: &str = "key/owner.secret";
/// Slots for capabilities in the first context.
const SLOTS: u32 = 4096;

/// The context that the first program runs in; made on the first boot, together with the owner's key.
///
/// # Errors
/// The pool's; [`PoolError::Io`] if the host has no random numbers.
pub(in crate::machine) fn init_context(pool: &Pool) -> Result<ObjectId, PoolError> {
    if let Some(known) = pool.root_get(INIT_CONTEXT_RECORD).map(ObjectId::from_u128)
        && pool.contains(known)
    {
        return Ok(known);
    }
    let mut seed = [0; 32];
    super::random(&mut seed)?;
    let key = KeyPair::new(&seed);

    // 1. The key: everybody may read it, nobody may write it.
    let facts = key.object_facts();
    if !pool.contains(facts.id) {
        let spec = ObjectSpec {
            nonce: Some(facts.nonce),
            key: facts.key,
            rights: facts.default_rights,
            ..ObjectSpec::default()
        };
        pool.create_object(&spec)?;
    }
    pool.open_object(key.id())?.write(DATA_OFFSET, key.public_object().as_bytes())?;

    // 2. The context, with the right to itself.
    let spec = ObjectSpec { key: key.id(), ..ObjectSpec::default() };
    let context = pool.create_object(&spec)?;
    let object = pool.open_object(context)?;
    let header = Context::new_header(false, false, Rights::all(), SLOTS);
    object.write(CONTEXT_OFFSET, header.as_bytes())?;
    let capability = key.grant(&Grant::new(context, context, Rights::all()));
    let bytes = Bytes(pool, context);
    let slot = Context::read(&bytes).ok().and_then(|read| read.slot_for(&bytes, &capability).ok());
    // A table that was made a moment ago has room.
    object.write(slot.ok_or(PoolError::NoSuchObject(context))?, capability.as_bytes())?;

    // 3. The secret, which the context has created, in the monitor's eyes.
    let mut random = [0; 8];
    super::random(&mut random)?;
    let nonce = creation_nonce(context, u64::from_le_bytes(random));
    let secret =
        pool.create_object(&ObjectSpec { nonce: Some(nonce), key: key.id(), ..ObjectSpec::default() })?;
    pool.open_object(secret)?.write(DATA_OFFSET, key.private_object().as_bytes())?;

    // 4. Names, for people; then the commit point.
    for (name, id) in [(KEY_NAME, key.id()), (SECRET_NAME, secret), (CONTEXT_NAME, context)] {
        pool.name_set(name, id)?;
    }
    pool.root_set(INIT_CONTEXT_RECORD, context.as_u128())?;
    // Said without being asked: whoever loses these loses the right to grant.
    tracing::info!(
        target: "first_boot",
        "made the owner's key {KEY_NAME} = {}, its secret {SECRET_NAME} = {secret}, and the first context {CONTEXT_NAME} = {context}",
        key.id()
    );
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::monitor::facts::PoolObjects;
    use pool::CreateOptions;
    use sec::{Authority, Objects, Revocations};

    #[test]
    fn the_first_boot_makes_a_context_with_its_own_rights_and_the_second_finds_it() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pool =
            Pool::create(&place.path().join("pool"), 64 << 20, &CreateOptions::default()).expect("pool");
        let context = init_context(&pool).expect("first boot");
        assert_eq!(init_context(&pool).expect("second boot"), context);
        let objects = PoolObjects(&pool);
        let mut authority = Authority::new(Revocations::default(), 16, Rights::all());
        let mut rights = |object| authority.decide(&objects, context, object, 1).expect("a decision").rights;
        assert_eq!(rights(context), Rights::all());
        let secret = pool.name_get(SECRET_NAME).expect("a name");
        assert_eq!(rights(secret), Rights::all());
        let key = pool.name_get(KEY_NAME).expect("a name");
        assert_eq!(rights(key), Rights::READ);
        // The secret is the key's, and nobody else may read it.
        let mut bytes = [0; 64];
        assert!(objects.read(secret, DATA_OFFSET, &mut bytes));
        assert_eq!(KeyPair::from_private_object(&bytes).expect("a secret").id(), key);
        assert_eq!(pool.stat_object(secret).expect("stat").rights, Rights::empty());
    }
}
