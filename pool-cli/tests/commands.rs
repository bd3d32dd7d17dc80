//! Every command on a real pool, as text and as JSON.

#![allow(clippy::unwrap_used, reason = "tests")]

use clap::Parser;
use pool::{CreateOptions, ObjectSpec, OpenOptions, Pool};
use pool_cli::{Command, execute};
use serde_json::Value;
use std::path::PathBuf;
use twz_abi::ObjectId;
use twz_abi::object::META_OFFSET;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

struct Scene {
    _folder: tempfile::TempDir,
    pool: PathBuf,
    a: ObjectId,
    b: ObjectId,
}

/// A pool with an object "a" that refers to object "b".
fn scene() -> Scene {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("test.pool");
    let pool = Pool::create(&path, 16 << 20, &CreateOptions::default()).unwrap();
    let (a, b) = (
        pool.create_object(&ObjectSpec::default()).unwrap(),
        pool.create_object(&ObjectSpec::default()).unwrap(),
    );
    let object = pool.open_object(a).unwrap();
    object.write(4096, b"hello, pool").unwrap();
    object.write(META_OFFSET, b"TWZOBJ01\x01\0\0\0\x02\0\0\0").unwrap();
    let mut entry = b.as_u128().to_le_bytes().to_vec();
    entry.extend([1, 0, 0, 0, 3, 0, 0, 0]);
    object.write(META_OFFSET - 32, &entry).unwrap();
    pool.name_set("a", a).unwrap();
    pool.name_set("b", b).unwrap();
    Scene { _folder: folder, pool: path, a, b }
}

fn run(arguments: &[&str]) -> (String, Value, bool) {
    let cli = Cli::try_parse_from(["pool"].iter().chain(arguments)).unwrap();
    let (output, _) = execute(&cli.command).unwrap();
    (String::from_utf8(output.text).unwrap(), output.json, output.success)
}

fn fails(arguments: &[&str]) -> String {
    let cli = Cli::try_parse_from(["pool"].iter().chain(arguments)).unwrap();
    format!("{:#}", execute(&cli.command).unwrap_err())
}

#[test]
fn looking() {
    let scene = scene();
    let pool = scene.pool.to_str().unwrap();
    let (text, json, _) = run(&["info", pool]);
    assert!(text.contains("16.0 MiB") && text.contains('M'), "{text}");
    assert_eq!((json["objects"].as_u64(), json["names"].as_u64()), (Some(2), Some(2)));
    let (text, json, _) = run(&["ls", pool, "--json"]);
    assert_eq!(text.lines().count(), 2);
    assert_eq!(json.as_array().unwrap().len(), 2);
    let (text, json, _) = run(&["stat", pool, "a"]);
    assert!(text.contains("1 table entries"), "{text}");
    assert_eq!(json["id"], scene.a.to_string());
    let (text, json, _) = run(&["fot", pool, "a"]);
    assert!(text.contains(&scene.b.to_string()) && text.trim().ends_with('b'), "{text}");
    assert_eq!(json[0]["target"], scene.b.to_string());
    let (text, json, _) = run(&["cat", pool, &scene.a.to_string(), "--length", "11"]);
    assert_eq!((text.as_str(), json["hex"].as_str()), ("hello, pool", Some("68656c6c6f2c20706f6f6c")));
    let (text, _, _) = run(&["hexdump", pool, "a"]);
    assert!(
        text.starts_with("00001000  68 65 6c 6c 6f 2c 20 70  6f 6f 6c 00") && text.contains("\n*\n"),
        "{text}"
    );
    assert!(text.contains("|hello, pool.....|") && text.ends_with("00002000\n"), "{text}");
    let (text, json, _) = run(&["graph", pool]);
    assert!(text.starts_with("digraph") && text.contains("->"));
    assert_eq!(json["references"][0]["to"], scene.b.to_string());
    assert!(run(&["graph", pool, "--svg"]).0.starts_with("<svg"));
    assert!(fails(&["stat", pool, "nobody"]).contains("neither an object ID nor a name"));
    assert!(fails(&["cat", pool, "a", "--offset", "1G", "--length", "1"]).contains("not inside an object"));
    let held = Pool::open(&scene.pool, &OpenOptions::default()).unwrap();
    assert!(fails(&["info", pool]).contains("in use by another process"));
    drop(held);
}

#[test]
fn changing() {
    let scene = scene();
    let pool = scene.pool.to_str().unwrap();
    run(&["name", pool, "other", "b"]);
    run(&["unname", pool, "b"]);
    assert!(fails(&["unname", pool, "b"]).contains("no name"));
    let (_, json, _) = run(&["retarget", pool, "a", "other", "a"]);
    assert_eq!(json["changed"], 1);
    assert_eq!(run(&["fot", pool, "a"]).1[0]["target"], scene.a.to_string());
    assert_eq!(run(&["grow", pool, "32M"]).1["size"], 32 << 20);
    run(&["rm", pool, "other"]);
    assert_eq!(run(&["ls", pool]).1.as_array().unwrap().len(), 1);
    let (text, json, success) = run(&["fsck", pool]);
    assert!(success && text.contains("clean") && json["clean"] == true, "{text}");
    // Damage a record: found, repaired, clean.
    let mut bytes = std::fs::read(&scene.pool).unwrap();
    bytes[2 * 4096 + 70] ^= 1;
    std::fs::write(&scene.pool, bytes).unwrap();
    assert!(fails(&["ls", pool]).contains("damaged"));
    let (text, _, success) = run(&["fsck", pool]);
    assert!(!success && text.contains(&scene.a.to_string()), "{text}");
    let (text, _, success) = run(&["fsck", pool, "--repair"]);
    assert!(success && text.contains("repaired"), "{text}");
    assert!(run(&["fsck", pool]).2);
}

#[test]
fn moving() {
    let scene = scene();
    let pool = scene.pool.to_str().unwrap();
    let file = scene.pool.with_extension("export");
    let file = file.to_str().unwrap();
    let (_, json, _) = run(&["export", pool, file, "a", "--deep"]);
    assert_eq!(json["objects"].as_array().unwrap().len(), 2);
    assert!(fails(&["export", pool, file, "a"]).contains("exists"));
    let second = scene.pool.with_extension("second");
    let second = second.to_str().unwrap();
    run(&["create", second, "16M"]);
    assert!(fails(&["create", second, "16M"]).contains("already holds a pool"));
    let (_, json, _) = run(&["import", second, file]);
    assert_eq!(json["objects"][0], scene.a.to_string());
    assert_eq!(run(&["fot", second, &scene.a.to_string()]).1[0]["resolved"], scene.b.to_string());
    assert!(fails(&["import", second, file]).contains("exists already"));
    run(&["import", second, file, "--skip-existing"]);
}
