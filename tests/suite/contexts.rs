//! Security contexts: a program inside tries to get what nobody granted, with callees of both placements.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::time::Duration;
use tests::{Job, Machine, Output, Place, start_typing};

tests_on!(
    local,
    super::Place::Local,
    nothing_is_got_that_nobody_granted,
    a_kernel_that_was_taken_over_reaches_nothing_that_is_not_bound,
    gates_are_typed_functions,
    a_switch_takes_no_exit_if_shared_and_one_if_not,
    no_access_succeeds_after_a_revocation,
    thousands_of_contexts_need_few_tables,
    a_small_limit_of_descriptors_is_enough,
    descriptors_that_run_out_are_taken_from_tables,
);
tests_on!(
    testbed,
    super::NPT,
    nothing_is_got_that_nobody_granted,
    a_kernel_that_was_taken_over_reaches_nothing_that_is_not_bound,
    gates_are_typed_functions,
    a_switch_takes_no_exit_if_shared_and_one_if_not,
    no_access_succeeds_after_a_revocation,
    thousands_of_contexts_need_few_tables,
);
tests_on!(
    intel,
    super::Place::TestbedIntel,
    nothing_is_got_that_nobody_granted,
    a_kernel_that_was_taken_over_reaches_nothing_that_is_not_bound,
);

const NPT: Place = Place::Testbed { align: "4K" };
/// Some ten times what it takes on an idle host, where ring 0 is interpreted.
const LIMIT: Duration = Duration::from_secs(300);
/// Attempts of the program; a change of it changes this, so that none is lost unnoticed.
const ATTEMPTS: usize = 276;

fn nothing_is_got_that_nobody_granted(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let words = ["twzvmm", "--pmem", &pool, "--create", "192M", "--harts", "2", "--", "adversary", "12"];
    let job = Job { limit: LIMIT, ..Job::new(&words) };
    check(&machine.run_all(&[job])[0], "adversary", ATTEMPTS);
}

/// Attempts of `takeover`, as [`ATTEMPTS`].
const TAKEOVER_ATTEMPTS: usize = 68;

fn a_kernel_that_was_taken_over_reaches_nothing_that_is_not_bound(place: Place) {
    let Some(mut machine) = Machine::new(place) else { return };
    let files = tempfile::tempdir().unwrap();
    let image = files.path().join("hostile.img");
    std::fs::write(&image, images::HOSTILE).unwrap();
    machine.add_file(&image, "hostile.img");
    let (pool, scratch) = (machine.pool(), machine.scratch());
    let image = format!("{scratch}/hostile.img");
    let words = ["twzvmm", "--pmem", &pool, "--create", "64M", "--image", &image, "--", "takeover"];
    let job = Job { limit: LIMIT, ..Job::new(&words) };
    check(&machine.run_all(&[job])[0], "takeover", TAKEOVER_ATTEMPTS);
}

fn gates_are_typed_functions(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let output = machine.run(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "vault"]);
    let count = |answer: &str| output.stdout.lines().filter(|line| line.starts_with(answer)).count();
    output.expect_status(0);
    assert_eq!((count("yes: "), count("NO: ")), (26, 0), "{}", output.stdout);
}

/// What one measurement of `switches` reports, and the machine's counters at its end.
struct Switches {
    root_switches: u64,
    page_faults: u64,
    /// But for those that only an interpreted ring 0 needs.
    exits: u64,
    register_ioctls: u64,
    /// Exits that KVM counted, in whatever root; 0 if it counts none.
    kvm_exits: u64,
}

/// Operations in a round of `switches`.
const SWITCHES: [u64; 2] = [100, 1100];

/// Counted, not timed: what [`SWITCHES`]' difference of operations adds to every counter.
fn a_switch_takes_no_exit_if_shared_and_one_if_not(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let more = SWITCHES[1] - SWITCHES[0];
    for (name, exits_each) in
        [("switch_shared", 0), ("switch_own", 1), ("gate_call_shared", 0), ("gate_call_own", 2)]
    {
        let jobs = SWITCHES.map(|count| {
            let script = format!(
                "twzvmm --pmem {pool} --create 64M --report r.json -- switches {count} 1 {name}; cat r.json"
            );
            Job { limit: LIMIT, ..Job::new(&["sh", "-c", &script]) }
        });
        let [few, many] = &machine.run_all(&jobs).iter().map(switches).collect::<Vec<_>>()[..] else {
            panic!("as many outputs as jobs")
        };
        assert_eq!(many.root_switches - few.root_switches, more * exits_each, "{name}");
        assert_eq!(many.register_ioctls, few.register_ioctls, "{name}: register ioctls");
        // Time slices and waiting differ from run to run, by far less than an exit a switch.
        // KVM's own counts are those of all roots, not only of the first.
        let counted = many.kvm_exits.saturating_sub(few.kvm_exits);
        assert!(
            many.kvm_exits == 0 || counted >= more * exits_each / 2,
            "{name}: {counted} exits of KVM's count, {} in the first run",
            few.kvm_exits
        );
        let exits = many.exits.abs_diff(few.exits).abs_diff(more * exits_each);
        assert!(exits < more / 2, "{name}: {} exits, then {}", few.exits, many.exits);
        assert!(many.page_faults.abs_diff(few.page_faults) < 16, "{name}: page faults");
    }
}

/// Reads what `switches` and `twzvmm --report` wrote.
fn switches(output: &Output) -> Switches {
    let text = &output.expect_status(0).stdout;
    let number = |text: &str, name: &str| -> u64 {
        let after = text.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name}: {text}")).1;
        let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|error| panic!("{name}: {error}: {text}"))
    };
    let vmm = text.split_once("\"vmm\":").unwrap_or_else(|| panic!("no report: {text}")).1;
    let kvm = text.split_once("\"kvm\":").map_or("", |(_, kvm)| kvm);
    Switches {
        kvm_exits: if kvm.contains("\"exits\":") { number(kvm, "exits") } else { 0 },
        root_switches: number(text, "root_switches"),
        page_faults: number(text, "page_faults"),
        // Where ring 0 is interpreted, `twzvmm` exchanges vector registers that a kernel with XSAVE exchanges without it.
        exits: number(vmm, "hypercall") - number(vmm, "Vectors"),
        register_ioctls: number(vmm, "register_ioctls"),
    }
}

fn no_access_succeeds_after_a_revocation(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let words = ["twzvmm", "--pmem", &pool, "--create", "256M", "--harts", "2", "--", "rights", "10"];
    let job = Job { limit: LIMIT, ..Job::new(&words) };
    let output = machine.run_all(&[job]).remove(0);
    let lines: Vec<&str> = output.expect_status(0).stdout.lines().collect();
    assert!(lines.contains(&r#"{"name": "accesses after a revocation", "count": 0}"#), "{}", output.stdout);
    assert_eq!(lines.len(), 23, "{}", output.stdout);
}

/// Contexts of the program `crowd`: in the testbed fewer, since each takes some 100 ms there, but still more than may have tables at a time.
const CROWD: u64 = 2048;
const CROWD_IN_TESTBED: u64 = 384;
/// The most tables that the monitor keeps.
const TABLES_MAX: u64 = 128;
/// The most contexts that the kernel keeps what it mapped for, one for each window that they share.
const KEPT_MAX: u64 = 64;

fn thousands_of_contexts_need_few_tables(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let crowd = if place == Place::Local { CROWD } else { CROWD_IN_TESTBED };
    // In memory where there is such a place: making them is thousands of steps that a disk is waited for.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let local = directory.path().join("pool.img").display().to_string();
    let (pool, size) = if place == Place::Local { (local, "1G") } else { (machine.pool(), "448M") };
    // Made in one run of the machine, used in the next ones: first none of them, for what a machine takes without.
    let words = [
        format!("--create {size} -- crowd make {crowd}"),
        "-- crowd use 0".to_owned(),
        format!("-- crowd use {crowd}"),
    ];
    let jobs = words.map(|words| {
        let script = format!("twzvmm --pmem {pool} --report r.json {words} && cat r.json");
        let limit = if place == Place::Local { LIMIT * 3 } else { LIMIT / 10 };
        Job { limit, ..Job::new(&["sh", "-c", &script]) }
    });
    let [made, none, all] = &machine.run_all(&jobs)[..] else { panic!("as many outputs as jobs") };
    let made = &made.expect_status(0).stdout;
    let begins = format!("crowd: made {crowd}, ");
    let bytes = made.strip_prefix(&begins).and_then(|rest| rest.split_once(' ')).expect(made).0;
    let tried = crowd / 32;
    let used = format!(
        "crowd: {crowd} of {crowd} contexts have their right and no other; {tried} of {tried} attempts refused\n"
    );
    assert!(all.expect_status(0).stdout.starts_with(&used), "{}", all.stdout);
    let of = |output: &Output, name: &str| reported(&output.stdout, name);
    let (entered, tables) = (of(all, "entered"), of(all, "tables"));
    // The program's own context is one of them. One that is called a second time, to see it refused, may have lost its table in between.
    assert!((crowd + 1..=crowd + 1 + tried).contains(&entered), "{entered} contexts entered");
    assert!(tables <= TABLES_MAX, "{tables} tables");
    assert!(of(all, "evicted_idle") + of(all, "evicted_in_use") >= crowd - TABLES_MAX);
    let more = |name: &str| of(all, name).saturating_sub(of(none.expect_status(0), name));
    let (vmm, kernel) = (more("overhead"), more("frames_used") * 4096);
    eprintln!(
        "{crowd} contexts used with {tables} tables: VMM {} KiB and kernel {} KiB a table, pool {bytes} bytes a context with its object",
        vmm / tables / 1024,
        kernel / tables / 1024,
    );
    // What a machine takes must not depend on how many contexts there are, but on how many may have tables, and on how many the kernel keeps:
    // how many it is of both in the end is different each time.
    assert!(vmm < TABLES_MAX * (256 << 10), "{vmm} bytes more in the VMM");
    assert!(kernel < KEPT_MAX * (80 << 10), "{kernel} bytes more in the kernel");
}

/// Contexts with a root to themselves each, called on four harts: more virtual machines, and vCPUs of these, than there are descriptors.
const CROWD_OWN: u64 = 96;

/// Makes [`CROWD_OWN`] contexts in a pool in the machine's scratch directory.
fn make_own_roots(machine: &Machine) -> String {
    let pool = machine.pool();
    let words = format!("twzvmm --pmem {pool} --create 64M -- crowd --own make {CROWD_OWN}");
    machine.run_all(&[Job { limit: LIMIT, ..Job::new(&["sh", "-c", &words]) }])[0].expect_status(0);
    pool
}

fn expect_all_called(stdout: &str) {
    let used = format!("crowd: {CROWD_OWN} of {CROWD_OWN} contexts have their right and no other; 4 of 4 ");
    assert!(stdout.contains(&used), "{stdout}");
}

/// Most descriptors of the process in this test: `RLIMIT_NOFILE`, soft and hard.
const DESCRIPTORS: u64 = 64;

/// The number of tables follows from the limit; the soft one is raised.
fn a_small_limit_of_descriptors_is_enough(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = make_own_roots(&machine);
    let jobs = [format!("-n {DESCRIPTORS}"), format!("-S -n {DESCRIPTORS}")].map(|limit| {
        let words = format!("--pmem {pool} --harts 4 --report r.json -- crowd --together use {CROWD_OWN}");
        let script = format!("ulimit {limit} && twzvmm {words} && cat r.json");
        Job { limit: LIMIT, ..Job::new(&["sh", "-c", &script]) }
    });
    let [few, raised] = &machine.run_all(&jobs)[..] else { panic!("as many outputs as jobs") };
    for output in [few, raised] {
        expect_all_called(&output.expect_status(0).stdout);
    }
    let of = |output: &Output, name: &str| reported(&output.stdout, name);
    let evicted = of(few, "evicted_idle") + of(few, "evicted_in_use");
    // A table is a descriptor for the root and one for each of four harts.
    assert!(of(few, "tables") < DESCRIPTORS / 5 && evicted >= CROWD_OWN - DESCRIPTORS / 5, "{}", few.stdout);
    // Chosen beforehand: none ran out.
    assert_eq!(of(few, "evicted_for_descriptors"), 0);
    assert!(of(raised, "tables") > DESCRIPTORS / 5, "the soft limit was not raised: {}", raised.stdout);
}

/// The machine has begun when the limit comes down to what it has open already.
fn descriptors_that_run_out_are_taken_from_tables(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = make_own_roots(&machine);
    let report = format!("{}/report.json", machine.scratch());
    let count = CROWD_OWN.to_string();
    let words = [
        "twzvmm",
        "--pmem",
        &pool,
        "--harts",
        "4",
        "--report",
        &report,
        "--",
        "crowd",
        "--together",
        "--typed",
        "use",
        &count,
    ];
    let mut running = start_typing(machine.local_command(&words).expect("this host"));
    running.wait_for("crowd: waits for a line\n");
    let open = std::fs::read_dir(format!("/proc/{}/fd", running.id())).expect("it runs").count() as u64;
    // Room for some tables, and for the files that the end of the machine opens.
    let process = Pid::from_raw(running.id().try_into().expect("a process ID"));
    let limit = Rlimit { current: Some(open + 16), ..getrlimit(Resource::Nofile) };
    prlimit(process, Resource::Nofile, limit).expect("a lower limit");
    running.type_in("\n");
    let output = running.wait(LIMIT);
    expect_all_called(&output.expect_status(0).stdout);
    let report = std::fs::read_to_string(&report).expect("a report");
    assert!(reported(&report, "evicted_for_descriptors") > 0, "{report}");
}

/// The first number called `name` in the text of a report, behind its list of contexts.
fn reported(text: &str, name: &str) -> u64 {
    let after = text.rsplit_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name}: {text}")).1;
    let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|error| panic!("{name}: {error}: {text}"))
}

fn check(output: &Output, program: &str, attempts: usize) {
    output.expect_status(0);
    let held = output.stdout.lines().filter(|line| line.starts_with("held: ")).count();
    let broken: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("BROKEN: ")).collect();
    assert_eq!(broken, [""; 0]);
    assert_eq!(held, attempts);
    let last = output.stdout.trim_end().lines().last();
    assert_eq!(last, Some(format!("{program}: {attempts} attempts, {attempts} held, 0 broken").as_str()));
}
