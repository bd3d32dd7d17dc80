//! The testbed as a tool: what it promises about streams, statuses, time, power and what it leaves behind.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::{Facility, Output, available, binary, start};

const LIMIT: Duration = Duration::from_secs(120);

/// `testbed OPTIONS -- COMMAND`, not started yet. Its root file system holds all of the project's binaries (218 MB), and may have half of what
/// memory the packed ones leave.
fn testbed(options: &[&str], command: &[&str]) -> Command {
    let mut testbed = Command::new(binary("testbed"));
    testbed.args(["--mem", "1G"]).args(options).arg("--").args(command);
    testbed
}

fn run(options: &[&str], command: &[&str]) -> Output {
    start(testbed(options, command)).wait(LIMIT)
}

/// True if an emulator that uses this file as its NVDIMM is running.
fn emulator_runs(nvdimm: &Path) -> bool {
    let name = nvdimm.to_str().expect("a plain path");
    let processes = std::fs::read_dir("/proc").expect("a host with /proc").flatten();
    processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok()).any(|line| {
        line.starts_with(b"qemu") && String::from_utf8_lossy(&line).contains(&format!("mem-path={name}"))
    })
}

#[test]
fn has_kvm_with_nested_paging_and_dax() {
    if !available(Facility::Testbed) {
        return;
    }
    let output =
        run(&[], &["sh", "-c", "ls /dev/kvm /dev/dax0.0; cat /sys/module/kvm_amd/parameters/npt; nproc"]);
    output.expect_status(0);
    assert_eq!(output.stdout, "/dev/dax0.0\n/dev/kvm\nY\n2\n");
}

#[test]
fn streams_are_exact_and_apart_and_the_status_is_the_commands() {
    if !available(Facility::Testbed) {
        return;
    }
    let mut command =
        testbed(&["--env", "WORD=it's"], &["sh", "-c", r"cat; printf '\0\r\n%s' $WORD >&2; exit 42"]);
    let sent: Vec<u8> = (0..100_000u32).flat_map(|number| format!("{number}\r\n\0").into_bytes()).collect();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert!(output.stdout == sent, "{} bytes went in, {} came out", sent.len(), output.stdout.len());
    assert_eq!(output.stderr, b"\0\r\nit's");
}

#[test]
fn data_outlives_the_machine_at_both_alignments() {
    if !available(Facility::Testbed) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    for (align, unit) in [("4K", "4096"), ("2M", "2097152")] {
        let nvdimm = place.path().join(align);
        let poke = format!("{}:/bin/poke", binary("twz-test-helper").display());
        let options =
            ["--pmem-size", "64M", "--align", align, "--file", &poke, "--pmem", nvdimm.to_str().unwrap()];
        let written = run(&options, &["poke", "map-write", "/dev/dax0.0", "2097152", unit, "still here"]);
        written.expect_status(0);
        let read = run(
            &options,
            &[
                "sh",
                "-c",
                &format!("poke map-read /dev/dax0.0 2097152 {unit}; poke map-read /dev/dax0.0 4096 4096"),
            ],
        );
        assert!(read.stdout.starts_with("still here\n"), "{read:?}");
        read.expect_status(if align == "4K" { 0 } else { 1 }); // a 4 KiB piece can only be mapped if that is the unit
        let other = if align == "4K" { "2M" } else { "4K" };
        let wrong = run(&["--align", other, "--pmem", nvdimm.to_str().unwrap()], &["true"]);
        wrong.expect_status(125);
        assert!(wrong.stderr.contains("use the --align it was made with"), "{}", wrong.stderr);
    }
}

#[test]
fn power_cut_stops_at_the_marker_and_keeps_what_was_stored() {
    if !available(Facility::Testbed) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let nvdimm = place.path().join("nv.img");
    let poke = format!("{}:/bin/poke", binary("twz-test-helper").display());
    let options = ["--pmem-size", "64M", "--file", &poke, "--pmem", nvdimm.to_str().unwrap()];
    let script = "poke map-write /dev/dax0.0 0 4096 first; echo step 1 done; sleep 3; \
                  poke map-write /dev/dax0.0 0 4096 second; echo step 2 done";
    let cut = run(&[&options[..], &["--power-cut", "step 1"]].concat(), &["sh", "-c", script]);
    cut.expect_status(137);
    assert_eq!(cut.stdout, "written\nstep 1 done\n");
    let read = run(&options, &["poke", "map-read", "/dev/dax0.0", "0", "4096"]);
    assert_eq!(read.stdout, "first\n");

    let missed = run(&["--power-cut", "no such line"], &["sh", "-c", "exit 9"]);
    missed.expect_status(9);
    let timed = run(&["--power-cut", "500"], &["sleep", "60"]);
    timed.expect_status(137);
}

#[test]
fn the_time_limit_holds() {
    if !available(Facility::Testbed) {
        return;
    }
    let began = Instant::now();
    let output = run(&["--timeout", "12"], &["sh", "-c", "echo begun; sleep 100"]);
    output.expect_status(124);
    // A busy host may not have booted the machine by then; the limit holds all the same.
    let booted = output.stderr.contains("CMD is still running after 12 s");
    assert!(booted || output.stderr.contains("the machine is still booting after 12 s"), "{}", output.stderr);
    assert_eq!(output.stdout, if booted { "begun\n" } else { "" });
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}

#[test]
fn signals_end_it_with_all_it_started() {
    if !available(Facility::Testbed) {
        return;
    }
    use rustix::process::Signal;
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::KILL, 137)] {
        let place = tempfile::tempdir().unwrap();
        let partial = place.path().join("nv.img.partial");
        let running = start(testbed(
            &["--pmem-size", "64M", "--pmem", place.path().join("nv.img").to_str().unwrap()],
            &["sleep", "100"],
        ));
        wait_until("the emulator runs", || emulator_runs(&partial));
        running.signal(signal);
        running.wait(LIMIT).expect_status(status);
        wait_until("the emulator is gone", || !emulator_runs(&partial));
    }
}

#[test]
fn an_nvdimm_in_use_and_a_file_of_another_kind_are_refused() {
    if !available(Facility::Testbed) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let letter = place.path().join("letter.txt");
    std::fs::write(&letter, "dear").unwrap();
    let refused = run(&["--pmem", letter.to_str().unwrap()], &["true"]);
    refused.expect_status(125);
    assert!(refused.stderr.contains("is not an NVDIMM"), "{}", refused.stderr);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert_eq!(std::fs::read(&letter).unwrap(), b"dear");

    let locked = std::fs::File::create(place.path().join("nv.img")).unwrap();
    locked.lock().unwrap();
    let refused = run(&["--pmem", place.path().join("nv.img").to_str().unwrap()], &["true"]);
    refused.expect_status(125);
    assert!(refused.stderr.contains("is in use by another machine"), "{}", refused.stderr);
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "waited 30 s until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
