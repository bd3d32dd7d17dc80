//! `key` and `ctx` inside, `twzvmm ctx` outside: looking at security contexts and changing what they hold.

use tests::{Job, Machine, Output, Place};

const NPT: Place = Place::Testbed { align: "4K" };

tests_on!(
    local,
    super::Place::Local,
    the_first_boot_says_where_its_key_and_context_are,
    capabilities_are_made_passed_on_and_taken_back,
    the_host_sees_what_is_bound_and_takes_it_back,
);
tests_on!(
    testbed,
    super::NPT,
    capabilities_are_made_passed_on_and_taken_back,
    the_host_sees_what_is_bound_and_takes_it_back,
);

/// The first word of what a program printed.
fn first_word(output: &Output) -> &str {
    output.expect_status(0);
    output.stdout.split_whitespace().next().unwrap_or_default()
}

fn the_first_boot_says_where_its_key_and_context_are(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        Job::new(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "ctx", "ls"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "key", "ls"]),
    ]);
    let context = first_word(&outputs[0]);
    let key = first_word(&outputs[1]);
    assert_eq!(outputs[0].stdout, format!("{context} context/init rwxud own\n"));
    assert_eq!(outputs[1].stdout, format!("{key} key/owner (may sign)\n"));
    for said in
        [format!("key/owner = {key}"), format!("context/init = {context}"), "key/owner.secret = ".into()]
    {
        assert!(outputs[0].stderr.contains(&said), "no {said:?} in {:?}", outputs[0].stderr);
    }
    assert_eq!(outputs[1].stderr, "", "the second boot says nothing");
}

fn capabilities_are_made_passed_on_and_taken_back(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let job = |line: &str| {
        let mut words = vec!["twzvmm", "--pmem", &pool, "--create", "64M", "--"];
        words.extend(line.split(' '));
        Job::new(&words)
    };
    let outputs = machine.run_all(&[
        job("key make alice"),
        job("key show alice"),
        job("ctx make box --shared --key alice"),
        job("ctx make other"),
        job("ctx grant box other ru --seconds 1000 --delegate alice --links 2"),
        job("ctx show box"),
        job("ctx ls"),
        job("ctx revoke object other --key alice"),
        job("ctx revoke object other"),
        job("ctx show other"),
        job("ctx grant box other rx"),
    ]);
    let [alice, shown, boxed, other, granted, table, list, by_another, revoked, after, again] = &outputs[..]
    else {
        panic!("as many outputs as jobs")
    };
    let (alice, boxed, other, digest) =
        (first_word(alice), first_word(boxed), first_word(other), first_word(granted));
    assert_eq!(digest.len(), 64, "{granted:?}");
    assert!(shown.expect_status(0).stdout.starts_with(&format!("key {alice}\nkind ed25519\n")));
    let line = format!("capability {digest} to {other} r--u-, epoch 0, signed by ");
    let table = &table.expect_status(0).stdout;
    assert!(table.contains(&line) && table.contains("may pass it on 2 times"), "{table}");
    assert!(table.contains(&format!("key {alice}, epoch 0\nshared, mask rwxud")), "{table}");
    let list = &list.expect_status(0).stdout;
    assert!(list.contains(&format!("{boxed} context/box rwxud shared\n")), "{list}");
    assert!(list.contains(&format!("{other} context/other rwxud own\n")), "{list}");
    assert!(by_another.expect_status(1).stdout.contains("does not permit"), "{by_another:?}");
    assert_eq!(revoked.expect_status(0).stdout, "revoked\n");
    assert!(after.expect_status(0).stdout.contains(", epoch 1\n"), "{after:?}");
    assert_eq!(first_word(again).len(), 64);

    let outputs = machine.run_all(&[
        job(&format!("ctx pass box {digest} other r --key alice")),
        job(&format!("ctx pass box {digest} other rw --key alice")),
        job(&format!("ctx pass box {digest} other r")),
        job("ctx show other"),
    ]);
    let passed = first_word(&outputs[0]);
    assert!(outputs[1].expect_status(1).stdout.contains("more rights"), "{outputs:?}");
    assert!(outputs[2].expect_status(1).stdout.contains("does not hold it"), "{outputs:?}");
    let table = &outputs[3].expect_status(0).stdout;
    let line = table.lines().find(|line| line.contains(passed)).expect("the capability passed on");
    assert!(line.ends_with(&format!("part of {digest}")), "{line}");
}

/// Starts a machine whose program reads an object in another context, looks from outside, and takes the right back.
const WATCH: &str = r#"
run() { twzvmm --pmem $POOL --create 64M -- "$@"; }
CONTEXT=$(run ctx make box $PLACEMENT | cut -d' ' -f1)
OBJECT=$(run ctx make target | cut -d' ' -f1)
DIGEST=$(run ctx grant box target r | cut -d' ' -f1)
cd $SCRATCH
twzvmm --pmem $POOL --control control -- ctx watch box target >watched 2>&1 &
until grep -q reading watched; do sleep 0.1; done
twzvmm ctx ls --control control
twzvmm ctx show --control control $CONTEXT
echo "expected: $CONTEXT $OBJECT $DIGEST"
twzvmm ctx revoke --control control --capability $OBJECT $DIGEST
wait $!
cat watched
"#;

fn the_host_sees_what_is_bound_and_takes_it_back(place: Place) {
    for placement in ["--shared", ""] {
        let Some(machine) = Machine::new(place) else { return };
        let setting =
            format!("POOL={} SCRATCH={} PLACEMENT={placement}\n{WATCH}", machine.pool(), machine.scratch());
        let output = machine.run(&["sh", "-c", &setting]);
        let text = &output.expect_status(0).stdout;
        let line = text.lines().find_map(|line| line.strip_prefix("expected: ")).expect("the script's line");
        let ids: Vec<&str> = line.split(' ').collect();
        let [context, object, digest] = ids[..] else { panic!("three words: {line}") };
        let placed = if placement.is_empty() { "own   " } else { "shared" };
        assert!(text.contains(&format!("{context} {placed} entered")), "{text}");
        let bound =
            text.lines().find(|line| line.trim_start().starts_with(object)).expect("the object is bound");
        assert!(bound.contains(" r---- ") && bound.ends_with(&format!("by {digest}")), "{bound}");
        assert!(text.contains("revoked in "), "{text}");
        assert!(text.lines().any(|line| line.starts_with("refused after ")), "{text}");
    }
}
