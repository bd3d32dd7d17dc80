//! Which of the guest kernel's code the runs of `scripts/coverage` reached.
//!
//! ```text
//! twz-coverage plan KERNEL LIST     writes the addresses of all basic blocks, for `twzvmm --coverage`
//! twz-coverage report KERNEL LIST   says what is still in the list, by file and line
//! twz-coverage size                 says how large the built-in kernel is, and what takes most of it
//! ```
//! KERNEL is the image built with line tables; its code must be that of the built-in image.

use addr2line::Loader;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use tests::blocks::Code;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["size"] {
        print!("{}", size()?);
        return Ok(());
    }
    let [command, kernel, list] = words.as_slice() else {
        bail!("usage: twz-coverage plan|report KERNEL LIST, or twz-coverage size")
    };
    let file = std::fs::read(kernel).with_context(|| kernel.clone())?;
    let code = Code::parse(&file).with_context(|| kernel.clone())?;
    let built_in = images::Image::parse(images::DEFAULT).context("the built-in image")?;
    if Code::parse(built_in.kernel).context("the built-in kernel")?.bytes != code.bytes {
        bail!("{kernel} is not the kernel that is built in: build both from the same sources");
    }
    match command.as_str() {
        "plan" => {
            let lines: String = code.blocks.keys().map(|address| format!("{address:x}\n")).collect();
            std::fs::write(list, lines).with_context(|| list.clone())
        }
        "report" => {
            let text = std::fs::read_to_string(list).with_context(|| list.clone())?;
            let left = text.lines().map(|line| u64::from_str_radix(line, 16)).collect::<Result<_, _>>();
            let left: BTreeSet<u64> = left.with_context(|| list.clone())?;
            print!("{}", report(&code, &left, Path::new(kernel))?);
            Ok(())
        }
        other => bail!("{other:?} is neither plan nor report"),
    }
}

/// Functions that `size` names.
const LARGEST: usize = 15;

/// The image by sections and by functions.
fn size() -> Result<String> {
    use object::{Object, ObjectSection};
    let kernel = images::Image::parse(images::DEFAULT).context("the built-in image")?.kernel;
    let code = Code::parse(kernel).context("the built-in kernel")?;
    let parsed = object::File::parse(kernel).context("the built-in kernel")?;
    let mut text = format!("image: {} bytes\n", kernel.len());
    for section in parsed.sections().filter(|section| section.address() != 0) {
        writeln!(text, "  {:<12} {:>8}", section.name().unwrap_or_default(), section.size())?;
    }
    let mut by_function: BTreeMap<String, u64> = BTreeMap::new();
    for (&start, block) in &code.blocks {
        let name = code.function(start).map_or("?", |(_, name)| name);
        *by_function.entry(format!("{:#}", rustc_demangle::demangle(name))).or_default() += block.end - start;
    }
    let mut sizes: Vec<(u64, String)> = by_function.into_iter().map(|(name, bytes)| (bytes, name)).collect();
    sizes.sort_unstable_by(|left, right| right.cmp(left));
    writeln!(text, "code: {} bytes in {} functions, most of it in", code.bytes.len(), sizes.len())?;
    sizes.iter().take(LARGEST).try_for_each(|(bytes, name)| writeln!(text, "  {bytes:>8}  {name}"))?;
    Ok(text)
}

/// What was not reached, and how much that is of all.
fn report(code: &Code, left: &BTreeSet<u64>, kernel: &Path) -> Result<String> {
    let lines = Loader::new(kernel).map_err(|error| anyhow::anyhow!("{}: {error}", kernel.display()))?;
    let place = |address: u64| line_of(&lines, address);
    // A line counts as reached if any block with it is.
    let reached = code.blocks.keys().filter(|address| !left.contains(address));
    let reached_lines: BTreeSet<(String, u32)> =
        reached.clone().filter_map(|&address| place(address)).collect();
    let missed =
        left.iter().filter(|address| code.blocks.get(address).is_some_and(|block| !block.only_panics));
    let mut by_file: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    let mut partly = BTreeSet::new();
    for &address in missed.clone() {
        match place(address) {
            Some(place) if reached_lines.contains(&place) => drop(partly.insert(place)),
            Some((file, line)) => drop(by_file.entry(file).or_default().insert(line)),
            None => {}
        }
    }
    let mut text = String::new();
    let functions: BTreeMap<u64, &str> = code
        .blocks
        .iter()
        .filter(|(_, block)| !block.only_panics)
        .filter_map(|(&address, _)| code.function(address))
        .collect();
    let never = functions.iter().filter(|(start, _)| left.contains(start));
    let never: Vec<String> = never.map(|(_, name)| format!("{:#}", rustc_demangle::demangle(name))).collect();
    writeln!(text, "functions that were never entered: {} of {}", never.len(), functions.len())?;
    never.iter().try_for_each(|name| writeln!(text, "  {name}"))?;
    let lines_missed: usize = by_file.values().map(BTreeSet::len).sum();
    writeln!(text, "lines of which nothing was reached: {lines_missed}")?;
    for (file, lines) in &by_file {
        let lines: Vec<String> = lines.iter().map(u32::to_string).collect();
        writeln!(text, "  {file}: {}", lines.join(" "))?;
    }
    let all_lines: BTreeSet<(String, u32)> =
        code.blocks.keys().filter_map(|&address| place(address)).collect();
    let (all, panics) = (code.blocks.len(), code.blocks.values().filter(|block| block.only_panics).count());
    let (reached, missed) = (reached.count(), missed.count());
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let percent = 100.0 * (1.0 - missed as f64 / (all - panics) as f64);
    writeln!(
        text,
        "coverage: {} lines with code, {} reached, {} of these in part; {all} blocks, {reached} reached, {panics} can only panic, \
         {missed} others not reached ({percent:.1} % of those that can be)",
        all_lines.len(),
        reached_lines.len(),
        partly.len()
    )?;
    Ok(text)
}

/// The kernel's own source line that an address belongs to, through what was inlined there.
fn line_of(lines: &Loader, address: u64) -> Option<(String, u32)> {
    let mut frames = lines.find_frames(address).ok()?;
    while let Ok(Some(frame)) = frames.next() {
        if let Some(location) = frame.location
            && let (Some(file), Some(line)) = (location.file, location.line)
            && let Some((_, file)) = file.split_once("guest-kernel/")
        {
            return Some((file.to_owned(), line));
        }
    }
    None
}
