//! Looking at contexts.

use crate::{Said, about, find_context, nothing_left, this_context};
use apps::context_object::ContextObject;
use apps::keys::names;
use apps::options::Options;
use core::fmt::{self, Display, Write};
use sec::{Cap, Context};
use twz_rt::abi::{ObjectId, Rights};
use twz_rt::{println, syscall};

pub(crate) fn list(options: Options) -> Said<()> {
    nothing_left(&options)?;
    for (name, id) in names("context/") {
        let granted = syscall::object_stat(id).map_or(Rights::empty(), |stat| stat.granted());
        let header = granted
            .contains(Rights::READ)
            .then(|| ContextObject::open(id, Rights::READ).and_then(|opened| opened.read()));
        let placement = match header {
            Some(Ok(header)) => placement(&header),
            Some(Err(_)) => "no context",
            None => "not readable",
        };
        println!("{id} {name} {} {placement}", Letters(granted));
    }
    Ok(())
}

pub(crate) fn show(mut options: Options) -> Said<()> {
    let id = options.word().map_or_else(this_context, find_context)?;
    nothing_left(&options)?;
    let stat = syscall::object_stat(id).map_err(about(id))?;
    let opened = ContextObject::open(id, Rights::READ).map_err(about(id))?;
    let header = opened.read().map_err(about(id))?;
    println!(
        "context {id}\nkey {}, epoch {}\n{}{}, mask {}, generation {}, {} slots",
        stat.key,
        stat.epoch,
        placement(&header),
        if header.undetachable { ", undetachable" } else { "" },
        Letters(header.mask),
        header.generation,
        header.slot_count()
    );
    for number in 0..header.gate_count() {
        if let Ok(gate) = header.gate(&opened.bytes, number) {
            println!(
                "gate {number}: code {} entry {:#x}, {} stacks",
                gate.code, gate.entry, gate.stack_count
            );
        }
    }
    for (_, raw) in header.capabilities(&opened.bytes) {
        match Cap::parse(&raw, 0) {
            Ok(cap) => println!("{}", Line(&cap, id)),
            Err(error) => println!("capability to {}: {}", raw.target, error.why),
        }
    }
    Ok(())
}

fn placement(header: &Context) -> &'static str {
    if header.shared { "shared" } else { "own" }
}

/// Rights as letters.
pub(crate) struct Letters(pub(crate) Rights);

impl Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.letters().iter().try_for_each(|&letter| f.write_char(char::from(letter)))
    }
}

/// A capability in the table of a context, on one line.
struct Line<'a>(&'a Cap, ObjectId);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(cap, holder) = self;
        write!(f, "capability {} to {} {}", cap.digest, cap.target, Letters(cap.rights))?;
        let raw = cap.gates.to_raw();
        if !cap.gates.is_empty() {
            write!(f, ", gates {}+{}/{}", raw.first, raw.length, raw.stride)?;
        }
        if cap.accessor != *holder {
            write!(f, ", for {}", cap.accessor)?;
        }
        write!(f, ", epoch {}, signed by {}", cap.epoch, cap.signer)?;
        if cap.validity.until != u64::MAX {
            write!(f, ", until {} s", cap.validity.until / 1_000_000_000)?;
        }
        if !cap.delegate.is_null() {
            write!(f, ", {} may pass it on {} times", cap.delegate, cap.links_left)?;
        }
        if cap.parent != sec::Digest::NONE {
            write!(f, ", part of {}", cap.parent)?;
        }
        Ok(())
    }
}

/// The rights that letters stand for; `None` for another letter.
pub(crate) fn rights_of(letters: &str) -> Option<Rights> {
    let all = Rights::all().letters();
    letters.bytes().filter(|&letter| letter != b'-').try_fold(Rights::empty(), |rights, letter| {
        let bit = all.iter().position(|&known| known == letter)?;
        Some(rights | Rights::from_bits_truncate(1 << bit))
    })
}
