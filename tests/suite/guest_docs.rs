//! `docs/syscalls.md` says what the ABI's table says.

use std::collections::BTreeMap;
use std::path::Path;
use twz_abi::ErrorCode;
use twz_abi::syscall::Syscall;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/syscalls.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The columns of each row that begins with a name in backquotes.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn every_call_is_documented_under_its_number_and_no_other() {
    let page = page();
    let documented: BTreeMap<String, String> =
        rows(&page).iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].to_owned())).collect();
    let wanted: BTreeMap<String, String> =
        Syscall::ALL.iter().map(|&call| (call.name().to_owned(), format!("{:#x}", call as u64))).collect();
    assert_eq!(documented, wanted);
    assert_eq!(rows(&page).len(), Syscall::ALL.len(), "a call is documented twice");
}

/// The type that an argument's kind is made of, if its name says more than "bytes" or "a word".
fn type_of(kind: &str) -> Option<&str> {
    let inner = kind.rsplit(['<', '[']).next().unwrap_or(kind).trim_end_matches(['>', ']']);
    // Of an array, how long it is.
    let inner = inner.rsplit("; ").next().unwrap_or(inner);
    (!["u8", "u64", "ObjectId"].contains(&inner)).then_some(inner)
}

#[test]
fn every_row_says_the_arguments_and_results_of_the_table() {
    let page = page();
    for row in rows(&page) {
        let name = row[0].trim_matches('`');
        let call = *Syscall::ALL.iter().find(|call| call.name() == name).expect("tested above");
        let described: Vec<&str> = row[2].split("; ").filter(|&piece| piece != "–").collect();
        assert_eq!(described.len(), call.arguments().len(), "{name}: {:?}", call.arguments());
        let mut next = 0;
        for (text, argument) in described.iter().zip(call.arguments()) {
            let registers: Vec<String> =
                (next..next + argument.words).map(|word| format!("a{word}")).collect();
            next += argument.words;
            let wanted = format!("{} `{}`: ", registers.join(", "), argument.name);
            assert!(text.starts_with(&wanted), "{name}: {text:?} does not begin with {wanted:?}");
            if let Some(type_name) = type_of(argument.kind) {
                assert!(text.contains(&format!("`{type_name}`")), "{name}: no {type_name} in {text:?}");
            }
        }
        let returned = ["v0", "v1"].map(|word| row[3].contains(word));
        assert_eq!(returned, [0, 1].map(|word| call.returned_words() > word), "{name}: {}", row[3]);
    }
}

#[test]
fn every_row_is_whole_and_names_errors_that_exist() {
    let page = page();
    for row in rows(&page) {
        assert_eq!(row.len(), 6, "call, number, arguments, returns, rights, errors: {row:?}");
        assert!(row.iter().all(|column| !column.is_empty()), "{row:?}");
        let errors = row[5].split(", ").filter(|&error| error != "–");
        for error in errors {
            let name = error.trim_matches('`');
            assert!(ErrorCode::ALL.iter().any(|code| code.name() == name), "{}: no error {error}", row[0]);
        }
    }
}
