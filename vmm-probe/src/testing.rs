//! For unit tests here and in `vmm`: this host's KVM, or an honest skip.

use kvm_ioctls::Kvm;
use std::fmt::Display;
use std::io::Write;

/// `/dev/kvm`. Where it cannot be opened, says that the calling test is skipped and why, past the test harness's capture.
///
/// # Panics
/// If it cannot be opened though `TWZ_REQUIRE` has `kvm`.
#[must_use]
pub fn kvm() -> Option<Kvm> {
    available(Kvm::new(), &std::env::var("TWZ_REQUIRE").unwrap_or_default())
}

fn available<T, E: Display>(opened: Result<T, E>, required: &str) -> Option<T> {
    let reason = match opened {
        Ok(kvm) => return Some(kvm),
        Err(error) => error,
    };
    let is_required = required.split(',').any(|name| name.trim() == "kvm");
    assert!(!is_required, "TWZ_REQUIRE has kvm, but /dev/kvm cannot be opened: {reason}");
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // If stderr is closed nobody wants to know.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: no kvm: {reason}");
    None
}

#[cfg(test)]
mod tests {
    use super::available;

    #[test]
    fn what_there_is_is_used() {
        assert_eq!(available(Ok::<_, &str>(1), "kvm"), Some(1));
    }

    #[test]
    fn what_nobody_requires_is_skipped() {
        assert_eq!(available::<u8, _>(Err("none"), "testbed"), None);
    }

    #[test]
    #[should_panic(expected = "TWZ_REQUIRE has kvm, but /dev/kvm cannot be opened: none")]
    fn what_is_required_and_missing_fails() {
        available::<u8, _>(Err("none"), "testbed, kvm");
    }
}
