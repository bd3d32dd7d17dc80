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
