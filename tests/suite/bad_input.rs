//! What is wrong from outside: one clear line on standard error, status 2, and a pool that is as it was.

use tests::{Job, Machine, Output, Place};

const SMALL: Place = Place::Testbed { align: "4K" };
const LARGE: Place = Place::Testbed { align: "2M" };

tests_on!(local, super::Place::Local, wrong_arguments_and_files);
tests_on!(testbed, super::SMALL, wrong_arguments_and_files, wrong_host);
tests_on!(testbed_2m, super::LARGE, a_pool_of_smaller_granule_than_the_device);

/// One thing that is wrong.
struct Case {
    name: &'static str,
    /// Shell commands that bring it about, run in the scratch directory beside `good.img`.
    before: String,
    /// The command, which must fail.
    command: Vec<&'static str>,
    /// What its one line must contain.
    says: &'static [&'static str],
}

fn case(name: &'static str, before: &str, command: &[&'static str], says: &'static [&'static str]) -> Case {
    Case { name, before: before.to_owned(), command: command.to_vec(), says }
}

/// Makes a pool in `good.img`, tries each case, and checks message, status and that `good.img` is as before.
fn check(machine: &Machine, cases: &[Case]) {
    let mut jobs = vec![Job::new(&["twzvmm", "--pmem", "good.img", "--create", "16M", "--", "counter"])];
    for case in cases {
        jobs.push(Job::new(&["sh", "-c", &format!("{} md5sum good.img", case.before)]));
        jobs.push(Job::new(&case.command));
        jobs.push(Job::new(&["md5sum", "good.img"]));
    }
    jobs.push(Job::new(&["twzvmm", "--pmem", "good.img", "--", "counter"]));
    let outputs = machine.run_all(&jobs);
    assert_eq!(outputs[0].expect_status(0).stdout, "counter: 0\n");
    let mut wrong = Vec::new();
    for (case, results) in cases.iter().zip(outputs[1..].chunks(3)) {
        let [before, tried, after] = results else { unreachable!("three jobs a case") };
        before.expect_status(0);
        wrong.extend(
            complaints(case, before, tried, after).iter().map(|what| format!("{}: {what}", case.name)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(outputs[jobs.len() - 1].expect_status(0).stdout, "counter: 1\n");
}

fn complaints(case: &Case, before: &Output, tried: &Output, after: &Output) -> Vec<String> {
    let mut wrong = Vec::new();
    let said = tried.stderr.trim_end();
    if tried.status != 2 {
        wrong.push(format!("status {}; {said}", tried.status));
    }
    if said.lines().count() != 1 || !said.starts_with("twzvmm: ") {
        wrong.push(format!("not one line: {said:?}"));
    }
    for part in case.says {
        if !said.to_lowercase().contains(&part.to_lowercase()) {
            wrong.push(format!("no {part:?} in {said:?}"));
        }
    }
    if before.stdout != after.stdout {
        wrong.push("the pool has changed".to_owned());
    }
    wrong
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn wrong_arguments_and_files(place: Place) {
    let Some(mut machine) = Machine::new(place) else { return };
    let files = tempfile::tempdir().unwrap();
    let other_version = files.path().join("version.bin");
    std::fs::write(&other_version, superblock_of_version_2()).unwrap();
    machine.add_file(&other_version, "version.bin");
    let image = files.path().join("image");
    std::fs::write(&image, images::DEFAULT).unwrap();
    machine.add_file(&image, "image");
    let whole = images::Image::parse(images::DEFAULT).unwrap();
    let last = whole.programs.last().unwrap().name;
    check(
        &machine,
        &[
            case("no pool named", "", &["twzvmm", "--", "counter"], &["--pmem"]),
            case(
                "no such file",
                "",
                &["twzvmm", "--pmem", "none.img", "--", "counter"],
                &["none.img", "--create"],
            ),
            case("a directory", "mkdir d;", &["twzvmm", "--pmem", "d", "--", "counter"], &["d"]),
            case(
                "not a pool",
                "head -c 16777216 /dev/zero | tr '\\0' x >text.img;",
                &["twzvmm", "--pmem", "text.img", "--", "counter"],
                &["text.img", "not a pool"],
            ),
            case(
                "not a pool, and to be made one",
                "head -c 16777216 /dev/zero | tr '\\0' x >text.img;",
                &["twzvmm", "--pmem", "text.img", "--create", "16M", "--", "counter"],
                &["text.img"],
            ),
            case(
                "empty",
                ": >empty.img;",
                &["twzvmm", "--pmem", "empty.img", "--", "counter"],
                &["empty.img"],
            ),
            case(
                "another version",
                "cp good.img version.img; for page in 0 256; do dd if=version.bin of=version.img bs=4096 seek=$page conv=notrunc 2>/dev/null; done;",
                &["twzvmm", "--pmem", "version.img", "--", "counter"],
                &["version.img", "version 2"],
            ),
            case(
                "truncated",
                "cp good.img short.img; truncate -s 8388608 short.img;",
                &["twzvmm", "--pmem", "short.img", "--", "counter"],
                &["short.img", "truncated"],
            ),
            case(
                "locked",
                "",
                &["twz-test-helper", "lock", "good.img", "twzvmm", "--pmem", "good.img", "--", "counter"],
                &["good.img", "in use"],
            ),
            case("no such program", "", &["twzvmm", "--pmem", "good.img", "--", "nobody"], &["nobody"]),
            case(
                "zero harts",
                "",
                &["twzvmm", "--pmem", "good.img", "--harts", "0", "--", "counter"],
                &["hart"],
            ),
            case(
                "many harts",
                "",
                &["twzvmm", "--pmem", "good.img", "--harts", "99999", "--", "counter"],
                &["hart"],
            ),
            case(
                "much memory",
                "",
                &["twzvmm", "--pmem", "good.img", "--mem", "900T", "--", "counter"],
                &["memory"],
            ),
            case(
                "no memory",
                "",
                &["twzvmm", "--pmem", "good.img", "--mem", "0", "--", "counter"],
                &["--mem"],
            ),
            case(
                "no image",
                "",
                &["twzvmm", "--pmem", "good.img", "--image", "none", "--", "counter"],
                &["none"],
            ),
            case(
                "not an image",
                "head -c 100000 good.img >noimage;",
                &["twzvmm", "--pmem", "good.img", "--image", "noimage", "--", "counter"],
                &["noimage", "image"],
            ),
            case(
                "damaged image",
                "cp image damaged; printf x | dd of=damaged bs=1 seek=60000 conv=notrunc 2>/dev/null;",
                &["twzvmm", "--pmem", "good.img", "--image", "damaged", "--", "counter"],
                &["damaged"],
            ),
            case(
                "damaged program in an image",
                "cp image bad; printf x | dd of=bad bs=1 seek=$(($(stat -c %s bad) - 1)) conv=notrunc 2>/dev/null;",
                &["twzvmm", "--pmem", "good.img", "--image", "bad", "--", last],
                &["the image is damaged: program"],
            ),
            case(
                "image of another version",
                "cp image other; printf '\\377' | dd of=other bs=1 seek=9 conv=notrunc 2>/dev/null;",
                &["twzvmm", "--pmem", "good.img", "--image", "other", "--", "counter"],
                &["other", "ABI"],
            ),
            case(
                "no configuration",
                "",
                &["twzvmm", "--config", "none.toml", "--", "counter"],
                &["none.toml"],
            ),
            case(
                "wrong configuration",
                "printf 'pmem = \"good.img\"\\nhrats = 2\\n' >c.toml;",
                &["twzvmm", "--config", "c.toml", "--", "counter"],
                &["c.toml", "hrats"],
            ),
            case(
                "too small a pool",
                "",
                &["twzvmm", "--pmem", "small.img", "--create", "4K", "--", "counter"],
                &["small.img", "too small"],
            ),
        ],
    );
}

/// What only root in a machine of its own can bring about.
fn wrong_host(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    check(
        &machine,
        &[
            case(
                "no KVM",
                "mv /dev/kvm /dev/kvm-away;",
                &["twzvmm", "--pmem", "good.img", "--", "counter"],
                &["/dev/kvm"],
            ),
            case(
                "something else as KVM",
                "ln -s /dev/null /dev/kvm;",
                &["twzvmm", "--pmem", "good.img", "--", "counter"],
                &["KVM", "doctor"],
            ),
            case(
                "KVM for others only",
                "rm /dev/kvm; mv /dev/kvm-away /dev/kvm; chmod 600 /dev/kvm; chmod 755 /root; chown 99:99 good.img;",
                &["twz-test-helper", "nobody", "twzvmm", "--pmem", "good.img", "--", "counter"],
                &["/dev/kvm"],
            ),
            case(
                "a pool for others only",
                "chmod 666 /dev/kvm; chown 0:0 good.img; chmod 600 good.img;",
                &["twz-test-helper", "nobody", "twzvmm", "--pmem", "good.img", "--", "counter"],
                &["good.img", "denied"],
            ),
            case(
                "full disk",
                "mkdir full; mount -t tmpfs -o size=256k none full;",
                &["twzvmm", "--pmem", "full/pool.img", "--create", "16M", "--", "counter"],
                &["full/pool.img", "full:"],
            ),
            case(
                "not a pool on a device",
                "",
                &["twzvmm", "--pmem", "/dev/dax0.0", "--", "counter"],
                &["/dev/dax0.0", "not a pool"],
            ),
            case(
                "a device that is none",
                "",
                &["twzvmm", "--pmem", "/dev/null", "--create", "16M", "--", "counter"],
                &["/dev/null"],
            ),
        ],
    );
}

/// A pool in 4 KiB pieces, copied to a device that maps only 2 MiB pieces.
fn a_pool_of_smaller_granule_than_the_device(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    check(
        &machine,
        &[case(
            "granule",
            "twz-test-helper copy good.img /dev/dax0.0 16777216;",
            &["twzvmm", "--pmem", "/dev/dax0.0", "--", "counter"],
            &["/dev/dax0.0", "4096", "2097152"],
        )],
    );
}

/// A page with a superblock that is right but for its version; the pool has one at the start and one at 1 MiB.
fn superblock_of_version_2() -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[..8].copy_from_slice(b"TWZPOOL1");
    page[8..12].copy_from_slice(&2_u32.to_le_bytes());
    page[12..16].copy_from_slice(&12_u32.to_le_bytes());
    page[32..40].copy_from_slice(&(16_u64 << 20).to_le_bytes());
    let check = crc32c::crc32c(&page[..56]);
    page[56..60].copy_from_slice(&check.to_le_bytes());
    page
}
