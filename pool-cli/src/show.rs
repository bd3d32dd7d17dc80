//! Commands that only look.

use crate::output::human;
use crate::{Output, find};
use anyhow::{Context, Result};
use pool::{Pool, Target};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use twz_abi::{ObjectId, Rights};

/// Characters in a row of the space map, and rows at most.
const MAP_WIDTH: usize = 64;
const MAP_ROWS: usize = 16;
/// Pages in a segment.
const SEGMENT_PAGES: u64 = 512;

fn letters(rights: Rights) -> String {
    String::from_utf8_lossy(&rights.letters()).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn info(pool: &Pool) -> Output {
    let usage = pool.usage();
    let map = space_map(pool);
    let per_cell = map.segments_per_cell;
    let uuid = hex(&pool.uuid());
    let text = format!(
        "pool {uuid}, made {} seconds after 1970\n\
         medium    {}\n\
         granule   {}\n\
         size      {:>10}\n\
         used      {:>10}\n\
         metadata  {:>10}  {} pages of records, {} of maps\n\
         objects   {:>10}  {} of them deleted but tied\n\
         names     {:>10}\n\
         ties      {:>10}\n\n\
         space, {} each: . free, - + * partly used, # full, M metadata\n{}",
        pool.created(),
        pool.durability(),
        human(pool.granule()),
        human(usage.size),
        human(usage.used),
        human(usage.metadata),
        usage.record_pages,
        usage.map_pages,
        usage.objects,
        usage.doomed,
        usage.names,
        usage.ties,
        human(per_cell * SEGMENT_PAGES * twz_abi::PAGE_SIZE),
        map.rows,
    );
    let json = json!({
        "uuid": uuid, "created": pool.created(), "durability": format!("{:?}", pool.durability()).to_lowercase(),
        "granule": pool.granule(), "size": usage.size, "used": usage.used, "metadata": usage.metadata,
        "objects": usage.objects, "doomed": usage.doomed, "names": usage.names, "ties": usage.ties,
        "record_pages": usage.record_pages, "map_pages": usage.map_pages,
        "space_map": { "segments_per_cell": per_cell, "cells": map.rows.split_whitespace().collect::<String>() },
    });
    Output::new(text, json)
}

struct SpaceMap {
    segments_per_cell: u64,
    rows: String,
}

fn space_map(pool: &Pool) -> SpaceMap {
    let (fill, metadata) = pool.segments();
    let per_cell = fill.len().div_ceil(MAP_WIDTH * MAP_ROWS).max(1);
    let mut rows = String::new();
    let mut metadata = metadata;
    metadata.sort_unstable();
    for (number, cell) in fill.chunks(per_cell).enumerate() {
        let (first, last) = (number * per_cell, number * per_cell + cell.len());
        let place = metadata.partition_point(|&segment| segment < first as u64);
        let is_metadata = metadata.get(place).is_some_and(|&segment| segment < last as u64);
        let used: u64 = cell.iter().map(|&pages| u64::from(pages)).sum();
        let all = cell.len() as u64 * SEGMENT_PAGES;
        rows.push(match used * 4 / all {
            _ if is_metadata => 'M',
            _ if used == 0 => '.',
            0 => '-',
            1 | 2 => '+',
            3 => '*',
            _ => '#',
        });
        if (number + 1) % MAP_WIDTH == 0 {
            rows.push('\n');
        }
    }
    if !rows.ends_with('\n') {
        rows.push('\n');
    }
    SpaceMap { segments_per_cell: per_cell as u64, rows }
}

/// (bytes with pages, bytes of them shared with other objects)
fn sizes(pool: &Pool, id: ObjectId) -> Result<(u64, u64)> {
    // Deleted ones that are only tied to cannot always be opened; then nothing is known but the directory's word.
    let Ok(object) = pool.open_object(id) else { return Ok((0, 0)) };
    let extents = object.extents()?;
    let shared = extents.iter().filter(|extent| extent.shared).map(|extent| extent.len).sum();
    Ok((extents.iter().map(|extent| extent.len).sum(), shared))
}

pub(crate) fn ls(pool: &Pool) -> Result<Output> {
    let mut ids = pool.object_ids();
    ids.sort_unstable();
    let mut text = String::new();
    let mut list = Vec::new();
    for id in ids {
        let stat = pool.stat_object(id)?;
        let (bytes, shared) = sizes(pool, id)?;
        let names = pool.names_of(id);
        let flag = if stat.doomed { "deleted " } else { "" };
        let _ =
            writeln!(text, "{id} {} {:>10} {flag}{}", letters(stat.rights), human(bytes), names.join(" "));
        list.push(json!({
            "id": id.to_string(), "rights": letters(stat.rights), "kind": stat.kind, "bytes": bytes, "shared": shared,
            "deleted": stat.doomed, "names": names,
        }));
    }
    Ok(Output::new(text, Value::Array(list)))
}

pub(crate) fn stat(pool: &Pool, object: &str) -> Result<Output> {
    let id = find(pool, object)?;
    let stat = pool.stat_object(id)?;
    let (bytes, shared) = sizes(pool, id)?;
    let opened = pool.open_object(id)?;
    let (extents, meta) = (opened.extents()?, opened.meta()?);
    let names = pool.names_of(id);
    let (holders, tied) = pool.ties(id);
    let strings = |ids: &[ObjectId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut text = format!(
        "object    {id}{}\nnonce     {}\nkey       {}\nrights    {}\nkind      {:#x}\nnames     {}\ntied to   {}\nholds     {}\n\
         pages     {}, {} shared\n",
        if stat.doomed { ", deleted, kept by ties" } else { "" },
        hex(&stat.nonce),
        stat.key,
        letters(stat.rights),
        stat.kind,
        names.join(", "),
        strings(&holders).join(", "),
        strings(&tied).join(", "),
        human(bytes),
        human(shared),
    );
    match &meta {
        Some(meta) => {
            let _ = writeln!(
                text,
                "program   type {:#018x}, {} table entries",
                meta.type_fingerprint,
                meta.fot_len.saturating_sub(1)
            );
        }
        None => text.push_str("program   nothing that libtwz wrote\n"),
    }
    for extent in &extents {
        let shared = if extent.shared { ", shared" } else { "" };
        let _ = writeln!(
            text,
            "  {:#010x} .. {:#010x} at {:#x}{shared}",
            extent.object_offset,
            extent.object_offset + extent.len,
            extent.pool_offset
        );
    }
    let json = json!({
        "id": id.to_string(), "nonce": hex(&stat.nonce), "key": stat.key.to_string(), "rights": letters(stat.rights),
        "kind": stat.kind, "deleted": stat.doomed, "names": names, "tied_to": strings(&holders), "holds": strings(&tied),
        "bytes": bytes, "shared": shared,
        "meta": meta.map(|meta| json!({
            "type_fingerprint": format!("{:#018x}", meta.type_fingerprint), "fot_len": meta.fot_len,
        })),
        "extents": extents.iter().map(|extent| json!({
            "object_offset": extent.object_offset, "pool_offset": extent.pool_offset, "length": extent.len,
            "shared": extent.shared,
        })).collect::<Vec<_>>(),
    });
    Ok(Output::new(text, json))
}

pub(crate) fn fot(pool: &Pool, object: &str) -> Result<Output> {
    let object = pool.open_object(find(pool, object)?)?;
    let mut text = String::new();
    let mut list = Vec::new();
    for reference in object.references()? {
        let (kind, target, id) = match reference.target {
            Target::Id(id) => ("id", id.to_string(), Some(id)),
            Target::Name(Some(name)) => ("name", name.clone(), pool.name_get(&name)),
            Target::Name(None) => ("name", "(unreadable)".to_owned(), None),
        };
        let here = id.filter(|&id| pool.contains(id));
        let resolved = match (kind, here) {
            (_, None) => "leads nowhere in this pool".to_owned(),
            ("name", Some(id)) => format!("-> {id}"),
            (_, Some(id)) => pool.names_of(id).join(" "),
        };
        let rights = letters(reference.entry.requested());
        let _ = writeln!(text, "{:>7} {rights} {target} {resolved}", reference.index);
        list.push(json!({
            "index": reference.index, "rights": rights, "kind": kind, "target": target,
            "resolved": here.map(|id| id.to_string()), "generation": reference.entry.generation,
        }));
    }
    Ok(Output::new(text, Value::Array(list)))
}

pub(crate) fn graph(pool: &Pool, svg: bool, file: Option<&Path>) -> Result<Output> {
    let graph = pool.graph()?;
    let drawn = if svg { graph.to_svg() } else { graph.to_dot() };
    let id = |number: usize| graph.nodes[number].0.to_string();
    let json = json!({
        "objects": graph.nodes.iter().map(|(id, name)| json!({ "id": id.to_string(), "name": name })).collect::<Vec<_>>(),
        "references": graph.edges.iter().map(|(from, to, index)| json!({
            "from": id(*from), "to": id(*to), "index": index,
        })).collect::<Vec<_>>(),
        "dangling": graph.dangling.iter().map(|(from, index, target)| json!({
            "from": id(*from), "index": index, "target": target,
        })).collect::<Vec<_>>(),
    });
    let Some(file) = file else { return Ok(Output::new(drawn, json)) };
    std::fs::write(file, &drawn).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(Output::new(String::new(), json))
}
