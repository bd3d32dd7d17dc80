//! Export and import.

use crate::output::{byte_bar, human};
use crate::{Output, find};
use anyhow::{Context, Result};
use pool::Pool;
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use twz_abi::ObjectId;

pub(crate) fn export(pool: &Pool, path: &Path, objects: &[String], deep: bool) -> Result<Output> {
    let mut ids: Vec<ObjectId> = objects.iter().map(|object| find(pool, object)).collect::<Result<_>>()?;
    if deep {
        ids = pool.closure(&ids)?;
    }
    let mut total = 0;
    for &id in &ids {
        total += pool.open_object(id)?.extents()?.iter().map(|extent| extent.len).sum::<u64>();
    }
    let what = || format!("cannot export to {}", path.display());
    // A file that is there is somebody's; half a file would be nobody's.
    let file = File::create_new(path).with_context(what)?;
    let bar = byte_bar("exporting", total);
    let result = pool.export(&ids, &mut BufWriter::new(&file), &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    let result =
        result.map_err(anyhow::Error::from).and_then(|()| file.sync_all().map_err(anyhow::Error::from));
    if result.is_err() {
        let _ = std::fs::remove_file(path);
    }
    result.with_context(what)?;
    let size = file.metadata().with_context(what)?.len();
    let text = format!("{} objects, {}\n", ids.len(), human(size));
    let list: Vec<String> = ids.iter().map(ToString::to_string).collect();
    Ok(Output::new(text, json!({ "file": path, "bytes": size, "objects": list })))
}

pub(crate) fn import(pool: &Pool, path: &Path, skip_existing: bool) -> Result<Output> {
    let what = || format!("cannot import {}", path.display());
    let file = File::open(path).with_context(what)?;
    let bar = byte_bar("importing", file.metadata().with_context(what)?.len());
    let ids = pool.import(&mut BufReader::new(file), skip_existing, &mut |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let ids = ids.with_context(what)?;
    pool.sync()?;
    let list: Vec<String> = ids.iter().map(ToString::to_string).collect();
    Ok(Output::new(list.iter().map(|id| format!("{id}\n")).collect::<String>(), json!({ "objects": list })))
}
