//! Commands that change a pool.

use crate::output::{human, step_bar};
use crate::{Output, find};
use anyhow::{Context, Result};
use pool::{CreateOptions, OpenOptions, Pool};
use serde_json::json;
use std::fmt::Write;
use std::path::Path;
use twz_abi::ObjectId;

pub(crate) fn create(path: &Path, size: u64, force: bool, granule: Option<u64>) -> Result<Output> {
    let options = CreateOptions { force, granule, relaxed: false };
    let pool =
        Pool::create(path, size, &options).with_context(|| format!("cannot create {}", path.display()))?;
    pool.sync()?;
    let usage = pool.usage();
    let text = format!(
        "{}: {}, granule {}; {}\n",
        path.display(),
        human(usage.size),
        human(pool.granule()),
        pool.durability()
    );
    Ok(Output::new(text, json!({ "pool": path, "size": usage.size, "granule": pool.granule() })))
}

pub(crate) fn retarget(pool: &Pool, object: &str, from: &str, to: &str) -> Result<Output> {
    let (object, from, to) = (find(pool, object)?, find(pool, from)?, find(pool, to)?);
    let changed = pool.retarget(object, from, to)?;
    pool.sync()?;
    let missing = !pool.contains(to);
    let note = if missing { " (which is not in this pool)" } else { "" };
    let text = format!("{changed} references of {object} now lead to {to}{note}\n");
    Ok(Output::new(text, json!({ "object": object.to_string(), "to": to.to_string(), "changed": changed })))
}

pub(crate) fn rm(pool: &Pool, objects: &[String]) -> Result<Output> {
    // All are looked up first, so that a wrong word deletes nothing.
    let ids: Vec<ObjectId> = objects.iter().map(|object| find(pool, object)).collect::<Result<_>>()?;
    let mut text = String::new();
    let mut kept = Vec::new();
    for &id in &ids {
        pool.delete_object(id)?;
        if pool.contains(id) {
            let _ = writeln!(text, "{id} is deleted, but stays while an object that it is tied to exists");
            kept.push(id.to_string());
        }
    }
    pool.sync()?;
    let deleted: Vec<String> = ids.iter().map(ToString::to_string).collect();
    Ok(Output::new(text, json!({ "deleted": deleted, "kept_by_ties": kept })))
}

pub(crate) fn fsck(path: &Path, repair: bool) -> Result<Output> {
    let bar = step_bar("checking");
    let report = pool::fsck_path(path, repair, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report.with_context(|| format!("cannot check {}", path.display()))?;
    let mut text = String::new();
    for problem in &report.problems {
        let object = problem.object.map_or_else(String::new, |id| format!(" (object {id})"));
        let verb = if repair { "did" } else { "would" };
        let _ = writeln!(text, "{:#x}: {}{object}; {verb}: {}", problem.at, problem.what, problem.repair);
    }
    let verdict = match (report.problems.is_empty(), report.clean, repair) {
        (true, ..) => "clean",
        (false, true, _) => "repaired",
        (false, false, false) => "damaged; --repair would do what is listed",
        (false, false, true) => "damaged, and not all of it could be repaired",
    };
    let _ = writeln!(
        text,
        "{}: {verdict}; {} objects, {} names, {} ties, {} used",
        path.display(),
        report.objects,
        report.names,
        report.ties,
        human(report.used)
    );
    let json = json!({
        "clean": report.clean, "objects": report.objects, "names": report.names, "ties": report.ties, "used": report.used,
        "problems": report.problems.iter().map(|problem| json!({
            "at": problem.at, "what": problem.what, "repair": problem.repair,
            "object": problem.object.map(|id| id.to_string()),
        })).collect::<Vec<_>>(),
    });
    let mut output = Output::new(text, json);
    output.success = report.clean;
    Ok(output)
}

pub(crate) fn grow(path: &Path, size: u64) -> Result<Output> {
    let size = pool::grow(path, size, &OpenOptions::default());
    let size = size.with_context(|| format!("cannot grow {}", path.display()))?;
    Ok(Output::new(format!("{}: {}\n", path.display(), human(size)), json!({ "pool": path, "size": size })))
}

pub(crate) fn name(pool: &Pool, name: &str, object: &str) -> Result<Output> {
    let id = find(pool, object)?;
    pool.name_set(name, id)?;
    pool.sync()?;
    Ok(Output::new(String::new(), json!({ "name": name, "object": id.to_string() })))
}

pub(crate) fn unname(pool: &Pool, name: &str) -> Result<Output> {
    pool.name_remove(name)?;
    pool.sync()?;
    Ok(Output::new(String::new(), json!({ "name": name })))
}
