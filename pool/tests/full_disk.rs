//! A disk that is fuller than the pool in it believes. Needs the right to mount a small tmpfs; without it, it says so and ends.

#![allow(clippy::unwrap_used, reason = "tests")]

use pool::{Access, CreateOptions, Error, ObjectSpec, Pool};
use std::process::Command;

const MIB: u64 = 1 << 20;

#[test]
fn a_full_disk_is_an_error_not_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(folder.path()).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("full_disk: no right to mount a tmpfs here: not tested");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let pool = Pool::create(&folder.path().join("a.pool"), 256 * MIB, &CreateOptions::default()).unwrap();
        let before = pool.usage();
        let big = ObjectSpec { size: 64 * MIB, ..ObjectSpec::default() };
        assert!(matches!(pool.create_object(&big), Err(Error::DiskFull { .. })));
        assert_eq!(pool.usage(), before, "it failed whole");
        let id = pool.create_object(&ObjectSpec::default()).unwrap();
        let object = pool.open_object(id).unwrap();
        let full = (0..64).find_map(|chunk| object.touch(chunk * 2 * MIB, 2 * MIB, Access::Write).err());
        assert!(matches!(full, Some(Error::DiskFull { .. })), "{full:?}");
        // What was made before still works.
        object.write(0, b"still here").unwrap();
    });
    let _ = Command::new("umount").arg(folder.path()).status();
    outcome.unwrap();
}
