//! Keys: `key make NAME`, `key ls`, `key show KEY`.
//!
//! A key is two objects: `key/NAME` with the public part, which everybody may read, and `key/NAME.secret`, which only the context that made it
//! may. Both stay when the machine goes off. The secret is made of the system's random numbers and never leaves the machine.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use apps::keys::{find, names};
use apps::mapped::Mapped;
use apps::options::Options;
use sec::KeyPair;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::{Args, context, println, syscall};
use zerocopy::IntoBytes;

twz_rt::entry!(main);

const USAGE: &str = "usage: key make NAME | key ls | key show KEY";

fn main(args: Args) -> Result<(), String> {
    let mut options = Options::new(args);
    let (command, name) = (options.word(), options.word());
    if options.rest().is_some() {
        return Err(USAGE.into());
    }
    match (command, name) {
        (Some("make"), Some(name)) => make(name),
        (Some("ls"), None) => {
            list();
            Ok(())
        }
        (Some("show"), Some(name)) => show(name),
        _ => Err(USAGE.into()),
    }
}

fn make(name: &str) -> Result<(), String> {
    let (public_name, secret_name) = (format!("key/{name}"), format!("key/{name}.secret"));
    if syscall::name_get(&public_name).is_ok() || syscall::name_get(&secret_name).is_ok() {
        return Err(format!("there is a key {name} already"));
    }
    let failed = |error: ErrorCode| format!("cannot make the key {name}: {error}");
    let mut seed = [0; 32];
    syscall::random(&mut seed).map_err(failed)?;
    let pair = KeyPair::new(&seed);
    let id = context::key_create(&pair.public_object()).map_err(failed)?;
    let spec = CreateSpec { key: id, ..CreateSpec::default() };
    let secret = syscall::object_create(&spec).map_err(failed)?;
    Mapped::of(secret).map_err(failed)?.write_durably(DATA_OFFSET, pair.private_object().as_bytes());
    // The secret first: a key that is named can be used.
    syscall::name_set(secret, &secret_name).map_err(failed)?;
    syscall::name_set(id, &public_name).map_err(failed)?;
    println!("{id} {public_name}");
    Ok(())
}

fn list() {
    for (name, id) in names("key/").filter(|(name, _)| !name.ends_with(".secret")) {
        println!("{id} {name}{}", if has_secret(&name) { " (may sign)" } else { "" });
    }
}

/// Whether this context may read the secret of the key of this name.
fn has_secret(name: &str) -> bool {
    let secret = syscall::name_get(&format!("{name}.secret"));
    secret.and_then(syscall::object_stat).is_ok_and(|stat| stat.granted().contains(Rights::READ))
}

fn show(name: &str) -> Result<(), String> {
    let id: ObjectId = find("key", name).map_err(|error| format!("{name}: {error}"))?;
    let stat = syscall::object_stat(id).map_err(|error| format!("{id}: {error}"))?;
    if !stat.granted().contains(Rights::READ) {
        return Err(format!("{id}: {}", ErrorCode::NotPermitted));
    }
    let mapped = Mapped::of(id).map_err(|error| format!("{id}: {error}"))?;
    let mut bytes = [0; size_of::<twz_rt::abi::sec::PublicKeyObject>()];
    sec::ObjectBytes::read(&mapped, DATA_OFFSET, &mut bytes);
    let public = sec::public_key_from_bytes(&bytes).map_err(|error| format!("{id}: {error}"))?;
    let is_key =
        sec::ObjectFacts::new(sec::key_nonce(public.kind, &public.key), ObjectId::NULL, Rights::READ).id
            == id;
    if !is_key {
        return Err(format!("{id} is not the object of a key"));
    }
    let digits: String = public.key.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("key {id}\nkind ed25519\npublic {digits}");
    Ok(())
}
