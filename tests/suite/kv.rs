//! `kv` inside: from the host's shell, over boots, and after `twzvmm` was killed.

use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::{Job, Machine, Output, Place, start, start_typing};

tests_on!(
    local,
    super::Place::Local,
    pairs_stay_over_boots,
    bulk_loads_show_how_far_they_are,
    a_killed_store_recovers,
    a_server_goes_on_after_failures,
    rights_on_values_are_the_machines_affair,
    a_confined_writer_puts_where_it_may,
    a_store_is_its_makers_to_write,
    a_secondary_index_has_rights_of_its_own,
);
tests_on!(
    testbed,
    super::NPT,
    pairs_stay_over_boots,
    rights_on_values_are_the_machines_affair,
    a_secondary_index_has_rights_of_its_own,
);

const NPT: Place = Place::Testbed { align: "4K" };
/// Some ten times what it takes on an idle host.
const LIMIT: Duration = Duration::from_secs(90);

fn kv(pool: &str, line: &str) -> Job {
    job(pool, "256M", &format!("kv {line}"))
}

fn job(pool: &str, size: &str, line: &str) -> Job {
    let mut words = vec!["twzvmm", "--pmem", pool, "--create", size, "--harts", "2", "--"];
    words.extend(line.split(' '));
    Job { limit: LIMIT, ..Job::new(&words) }
}

fn said(output: &Output) -> &str {
    output.expect_status(0);
    output.stdout.trim_end()
}

fn pairs_stay_over_boots(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        kv(&pool, "put colour blue"),
        kv(&pool, "get colour"),
        kv(&pool, "put colour red"),
        kv(&pool, "--store other put colour green"),
        kv(&pool, "get colour"),
        kv(&pool, "scan"),
        kv(&pool, "delete colour"),
        kv(&pool, "get colour"),
        kv(&pool, "--store other get colour"),
        kv(&pool, "nonsense"),
    ]);
    assert_eq!(said(&outputs[1]), "blue");
    assert_eq!(said(&outputs[4]), "red");
    assert_eq!(said(&outputs[5]), "colour red");
    assert_eq!(said(&outputs[6]), "");
    assert_eq!(outputs[7].status, 1, "{:?}", outputs[7]);
    assert_eq!(outputs[7].stdout, "kv: \"colour\" has no value\n", "inside there is one stream");
    assert_eq!(said(&outputs[8]), "green");
    assert_eq!(outputs[9].status, 2);
}

fn bulk_loads_show_how_far_they_are(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        kv(&pool, "load 5000"),
        kv(&pool, "stats"),
        kv(&pool, "get key-4999"),
        kv(&pool, "scan 3"),
    ]);
    said(&outputs[0]);
    assert!(outputs[0].stdout.contains("100%") && outputs[0].stdout.contains("###"), "{:?}", outputs[0]);
    assert!(said(&outputs[1]).starts_with("keys: 5000\n"), "{:?}", outputs[1]);
    assert!(said(&outputs[1]).ends_with("recoveries: 0"), "{:?}", outputs[1]);
    assert_eq!(said(&outputs[2]), "value-4999");
    assert_eq!(said(&outputs[3]).lines().count(), 3);
}

/// Killed while it loads: what it had shown as loaded is there, with what was there before, and the store goes on.
fn a_killed_store_recovers(place: Place) {
    const COUNT: u32 = 10_000_000;
    // The bar has 40 places.
    const SHOWN: u32 = COUNT / 40;
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let line = |line: &str| job(&pool, "4G", &format!("kv {line}"));
    said(&machine.run_all(&[line("put colour blue")])[0]);
    let load = line(&format!("load {COUNT}"));
    let words: Vec<&str> = load.words.iter().map(String::as_str).collect();
    let Some(command) = machine.local_command(&words) else { return };
    let victim = start(command);
    assert!(victim.wait_until("[#", LIMIT), "no progress");
    victim.signal(Signal::KILL);
    let killed = victim.wait(LIMIT);
    assert_eq!(killed.status, 137, "it was still at work: {killed:?}");
    let last = format!("get key-{}", SHOWN - 1);
    let outputs = machine.run_all(&[
        line("get colour"),
        line(&last),
        line("put colour red"),
        line("get colour"),
        line("stats"),
    ]);
    assert_eq!(said(&outputs[0]), "blue");
    assert_eq!(said(&outputs[1]), format!("value-{}", SHOWN - 1));
    assert_eq!(said(&outputs[3]), "red");
    let keys = said(&outputs[4]).lines().next().and_then(|line| line.strip_prefix("keys: "));
    let keys: u32 = keys.and_then(|keys| keys.parse().ok()).expect("a number of keys");
    assert!((SHOWN..=COUNT).contains(&keys), "{keys}");
    assert!(said(&outputs[4]).ends_with("recoveries: 1"), "{:?}", outputs[4]);
}

/// Killed, and cut off with its unflushed lines lost, again and again: the server is there at the next start without having been started, and has all that it
/// acknowledged, and nothing but that and the command that was under way.
fn a_server_goes_on_after_failures(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let command = |number: u32| match number % 3 {
        2 => format!("delete key-{}", (number + 4) % 7),
        _ => format!("put key-{} value-{number}", number % 7),
    };
    let after = |commands: u32| {
        let mut pairs = BTreeMap::new();
        for number in 0..commands {
            match number % 3 {
                2 => drop(pairs.remove(&format!("key-{}", (number + 4) % 7))),
                _ => drop(pairs.insert(format!("key-{}", number % 7), format!("value-{number}"))),
            }
        }
        pairs
    };
    let mut done = 0;
    for life in 0..8_u32 {
        let cut = ["--power-cut".to_owned(), life.to_string()];
        let mut words = vec!["twzvmm", "--pmem", "pool.img", "--create", "64M", "--mem", "32M"];
        if life % 2 == 0 {
            words.extend(cut.iter().map(String::as_str));
        }
        if life == 0 {
            words.extend(["--", "kv", "serve"]);
        }
        let mut running = start_typing(machine.local_command(&words).expect("a local machine"));
        running.type_in("scan\n");
        running.wait_for("\nkv: scanned ");
        let said = running.said();
        let found: BTreeMap<String, String> = said
            .lines()
            .filter(|line| line.starts_with("key-"))
            .filter_map(|line| line.split_once(' '))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        done = (done..=done + 1)
            .find(|&commands| after(commands) == found)
            .unwrap_or_else(|| panic!("life {life}: after {done} commands:\n{said}"));
        for number in done..done + 40 {
            running.type_in(&format!("{}\n", command(number)));
        }
        let last = done + life * 5;
        running.wait_for(&format!("\nkv: {} ", last + 1 - done));
        running.signal(Signal::KILL);
        let output = running.wait(LIMIT);
        output.expect_status(137);
        let acknowledged = output.stdout.lines().filter(|line| line.starts_with("kv: ")).count();
        // Besides those, it said what it serves and that it scanned.
        done += u32::try_from(acknowledged - 2).expect("a small number");
    }
    let mut running = start_typing(machine.local_command(&["twzvmm", "--pmem", "pool.img"]).expect("local"));
    running.type_in("quit\n");
    running.wait(LIMIT).expect_status(0);
    let over = machine.run(&["twzvmm", "resume", "ls", "--json", "--pmem", "pool.img"]);
    assert_eq!(said(&over), "[]");
}

/// Values of one store in objects with different rights; a program in a context of its own gets those that the machine gives it.
fn rights_on_values_are_the_machines_affair(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let keys = machine.run_all(&[job(&pool, "256M", "key ls")]);
    let key = said(&keys[0]).split(' ').next().unwrap_or_default();
    let made = machine.run_all(&[
        kv(&pool, "--public put open 1"),
        kv(&pool, "region none"),
        kv(&pool, "region r"),
        kv(&pool, &format!("region none {key}")),
        kv(&pool, "put hidden 2 1"),
        kv(&pool, "put readable 3 2"),
        kv(&pool, "put granted 4 3"),
        kv(&pool, "get hidden"),
        kv(&pool, "get granted"),
    ]);
    assert_eq!((said(&made[7]), said(&made[8])), ("2", "4"), "who made them may read them all");
    let object = |output: &Output| said(output).lines().nth(1).expect("the region's object").to_owned();
    let granted = object(&made[3]);
    // The first line makes the context, which the capability is for.
    let grant = format!("run ctx grant context/run/kv {granted} r");
    let outputs = machine.run_all(&[
        shell(&pool, "run --own kv get open"),
        shell(&pool, "run --own kv get readable"),
        shell(&pool, "run --own kv get hidden"),
        shell(&pool, "run --own kv get granted"),
        shell(&pool, &grant),
        shell(&pool, "run --own kv get granted"),
        shell(&pool, "run --own kv get hidden"),
        shell(&pool, "run --own kv get open"),
        shell(&pool, "run --own kv put readable 5"),
        shell(&pool, "run kv get readable"),
        shell(&pool, "run kv get hidden"),
    ]);
    assert_eq!((said(&outputs[0]), said(&outputs[1])), ("1", "3"));
    refused(&outputs[2]);
    refused(&outputs[3]);
    said(&outputs[4]);
    assert_eq!(said(&outputs[5]), "4", "it has a capability now");
    refused(&outputs[6]);
    assert_eq!(said(&outputs[7]), "1");
    refused(&outputs[8]);
    assert_eq!((said(&outputs[9]), said(&outputs[10])), ("3", "2"), "nothing has changed");
}

/// A context of its own that may write the index and region 0, and not the other regions: it writes there, sees what it may, and is refused the
/// rest, also where the old value stands in a region that it may not write. Each command is the first one in its boot that writes.
fn a_confined_writer_puts_where_it_may(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        kv(&pool, "--public put open 1"),
        kv(&pool, "region none"),
        kv(&pool, "region r"),
        kv(&pool, "put hidden 2 1"),
        kv(&pool, "put readable 3 2"),
        shell(&pool, "run --own kv put confined 4"),
        shell(&pool, "run --own kv scan"),
        shell(&pool, "run --own kv stats"),
        shell(&pool, "run --own kv put more 5 1"),
        shell(&pool, "run --own kv put more 5 2"),
        shell(&pool, "run --own kv put hidden 5"),
        shell(&pool, "run --own kv put readable 5"),
        shell(&pool, "run --own kv delete readable"),
        // Refused, and again in the same boot: no lock is held, and nothing is left that a recovery would find.
        shell(&pool, "run --own kv put readable 5\\nrun --own kv put open 6\\nrun --own kv get open"),
        kv(&pool, "scan"),
        kv(&pool, "stats"),
        kv(&pool, "put readable 7 2"),
    ]);
    assert_eq!(said(&outputs[5]), "");
    let mut lines: Vec<&str> = said(&outputs[6]).lines().collect();
    lines.sort_unstable();
    let hidden = "kv: 1 more are in objects that this security context may not read";
    assert_eq!(lines, ["confined 4", hidden, "open 1", "readable 3"]);
    assert!(said(&outputs[7]).contains("\nobjects that may not be read: 1\n"), "{:?}", outputs[7]);
    outputs[8..13].iter().for_each(refused);
    assert!(
        outputs[13].stdout.starts_with(REFUSED) && outputs[13].stdout.ends_with("\n6\n"),
        "{:?}",
        outputs[13]
    );
    let mut lines: Vec<&str> = said(&outputs[14]).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["confined 4", "hidden 2", "open 6", "readable 3"]);
    assert!(said(&outputs[15]).ends_with("recoveries: 0"), "each left it in order: {:?}", outputs[15]);
    said(&outputs[16]);
}

/// Without a word to the contrary others read a store and do not write it.
fn a_store_is_its_makers_to_write(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        kv(&pool, "put colour blue"),
        shell(&pool, "run --own kv get colour"),
        shell(&pool, "run --own kv put colour red"),
        shell(&pool, "run --own kv delete colour"),
        kv(&pool, "get colour"),
        kv(&pool, "--store secret --private put colour green"),
        shell(&pool, "run --own kv --store secret get colour"),
        kv(&pool, "--store secret get colour"),
    ]);
    assert_eq!(said(&outputs[1]), "blue");
    outputs[2..4].iter().for_each(refused);
    assert_eq!(said(&outputs[4]), "blue");
    refused(&outputs[6]);
    assert_eq!(said(&outputs[7]), "green");
}

/// A reader with rights on a secondary index and on some values, and none on the store.
fn a_secondary_index_has_rights_of_its_own(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let made = machine.run_all(&[
        kv(&pool, "--private put hidden 17"),
        kv(&pool, "region r"),
        kv(&pool, "put second 20 1"),
        kv(&pool, "index make number r"),
        kv(&pool, "index make number none"),
        kv(&pool, "put first 9 1"),
        kv(&pool, "index ls"),
    ]);
    let [index, secret] = [3, 4].map(|number: usize| said(&made[number]).to_owned());
    assert_eq!(said(&made[6]), format!("{index} number\n{secret} number"));
    let outputs = machine.run_all(&[
        kv(&pool, &format!("index range {index} 9 20")),
        shell(&pool, "run --own kv get first"),
        shell(&pool, &format!("run --own kv index range {secret} 9 20")),
        shell(&pool, &format!("run --own kv index range {index} 9 20")),
        shell(&pool, &format!("run --own kv index range {index} 9 19")),
    ]);
    assert_eq!(said(&outputs[0]), "first 9\nhidden 17\nsecond 20");
    refused(&outputs[1]);
    refused(&outputs[2]);
    let hidden = "kv: 1 more are in objects that this security context may not read";
    assert_eq!(said(&outputs[3]), format!("first 9\nsecond 20\n{hidden}"));
    assert_eq!(said(&outputs[4]), format!("first 9\n{hidden}"));
}

const REFUSED: &str = "kv: the security context does not permit object ";

fn refused(output: &Output) {
    assert!(output.status == 1 && output.stdout.starts_with(REFUSED), "{output:?}");
}

fn shell(pool: &str, line: &str) -> Job {
    let command = format!("printf '{line}\\n' | twzvmm --pmem {pool} --create 256M -- twsh");
    Job { limit: LIMIT, ..Job::new(&["sh", "-c", &command]) }
}
