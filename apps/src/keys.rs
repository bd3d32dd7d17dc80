//! Keys by name: `key/NAME` is the key object, `key/NAME.secret` the private one.

use crate::mapped::Mapped;
use alloc::format;
use alloc::string::String;
use sec::KeyPair;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::sec::PrivateKeyObject;
use twz_rt::abi::syscall::NAME_MAX;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::syscall;
use zerocopy::{FromZeros, IntoBytes};

/// What an ID or a name means: the ID, an object of that name, or one called `prefix/name`.
///
/// # Errors
/// [`ErrorCode::NoName`].
pub fn find(prefix: &str, text: &str) -> Result<ObjectId, ErrorCode> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    syscall::name_get(&format!("{prefix}/{text}")).or_else(|_| syscall::name_get(text))
}

/// The key pair called `name`, if the running context may read its secret.
///
/// # Errors
/// [`ErrorCode::NoName`], [`ErrorCode::NotPermitted`], [`ErrorCode::BadArgument`] for an object that holds no secret.
pub fn pair(name: &str) -> Result<KeyPair, ErrorCode> {
    let secret = find("key", &format!("{name}.secret"))?;
    if !syscall::object_stat(secret)?.granted().contains(Rights::READ) {
        return Err(ErrorCode::NotPermitted);
    }
    let mapped = Mapped::of(secret)?;
    let mut bytes = PrivateKeyObject::new_zeroed();
    sec::ObjectBytes::read(&mapped, DATA_OFFSET, bytes.as_mut_bytes());
    KeyPair::from_private_object(bytes.as_bytes()).map_err(|_| ErrorCode::BadArgument)
}

/// All names that begin with `prefix`, in order, with what they mean.
pub fn names(prefix: &str) -> impl Iterator<Item = (String, ObjectId)> + use<'_> {
    // Names follow `prefix` at once behind the greatest name that is less.
    let mut last = String::from(prefix);
    let exact = syscall::name_get(prefix).ok().map(|id| (String::from(prefix), id));
    let following = core::iter::from_fn(move || {
        let mut buffer = [0; NAME_MAX];
        let length = syscall::name_next(&last, &mut buffer).ok()?;
        last = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let id = syscall::name_get(&last).ok()?;
        last.starts_with(prefix).then(|| (last.clone(), id))
    });
    exact.into_iter().chain(following)
}
