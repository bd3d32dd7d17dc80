//! Link arguments of the programs, and the integration tests of `libtwz` as modules of the program `libtest`.
//!
//! A test file is taken as it is, inside a module of its name; `#[test]` functions become visible, and are listed.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

/// Files of `libtwz/tests` that need nothing but `libtwz`.
const TESTS: [&str; 8] =
    ["collections", "io", "names", "objects", "owned", "runtime", "sync", "transactions"];

fn main() {
    twz_build::program();
    let (mut modules, mut list) = (String::new(), String::new());
    for name in TESTS {
        let path = format!("../libtwz/tests/{name}.rs");
        println!("cargo:rerun-if-changed={path}");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        writeln!(modules, "mod {name} {{").expect("strings take text");
        let mut is_test = false;
        for line in text.lines() {
            match line.strip_prefix("fn ") {
                _ if line == "#[test]" => is_test = true,
                // The programs have what it asks for.
                _ if line.starts_with("#[cfg(feature") => {}
                Some(rest) if is_test => {
                    let test = rest.split('(').next().unwrap_or(rest);
                    writeln!(modules, "pub(crate) {line}").expect("strings take text");
                    writeln!(list, "    (\"{name}::{test}\", {name}::{test}),").expect("strings take text");
                    is_test = false;
                }
                _ => writeln!(modules, "{line}").expect("strings take text"),
            }
        }
        modules.push_str("}\n");
    }
    let text = format!("{modules}\npub(crate) const TESTS: &[(&str, fn())] = &[\n{list}];\n");
    let folder = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&folder).join("libtwz_tests.rs"), text).expect("OUT_DIR is writable");
}
