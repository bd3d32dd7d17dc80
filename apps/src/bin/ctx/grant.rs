//! Granting, passing on and taking back.

use crate::show::{Letters, rights_of};
use crate::{Said, USAGE, about, find_context, nothing_left, number, signer, text, wanted};
use alloc::format;
use alloc::string::ToString;
use apps::context_object::ContextObject;
use apps::keys::{self, find};
use apps::mapped::BOTH;
use apps::options::Options;
use sec::{Cap, Digest, GateSet, Grant, KeyPair, Validity};
use twz_rt::abi::sec::RawCap;
use twz_rt::abi::{ObjectId, Rights};
use twz_rt::{context, println, syscall};

const SECOND: u64 = 1_000_000_000;

pub(crate) fn grant(mut options: Options) -> Said<()> {
    let key = signer(&mut options)?;
    let (more, into) = (Terms::take(&mut options)?, wanted(options.word())?);
    let (target, rights) = (wanted(options.word())?, wanted(options.word())?);
    nothing_left(&options)?;
    let target = find("context", target).map_err(about(target))?;
    let stat = syscall::object_stat(target).map_err(about(target))?;
    if stat.key != key.id() {
        return Err(format!("{target}: only its key {} can grant rights to it, not {}", stat.key, key.id()));
    }
    let grant = more.apply(Grant {
        epoch: stat.epoch,
        ..Grant::new(target, find_context(into)?, parse_rights(rights)?)
    })?;
    hand_over(grant.accessor, &[key.grant(&grant)])
}

pub(crate) fn pass(mut options: Options) -> Said<()> {
    let key = signer(&mut options)?;
    let more = Terms::take(&mut options)?;
    let (from, digest) = (wanted(options.word())?, wanted(options.word())?);
    let (into, rights) = (wanted(options.word())?, wanted(options.word())?);
    nothing_left(&options)?;
    let parent = find_capability(find_context(from)?, digest)?;
    let grant = more.apply(Grant {
        epoch: parent.epoch,
        ..Grant::new(parent.target, find_context(into)?, parse_rights(rights)?)
    })?;
    let passed = key.delegate(&parent, &grant).map_err(|error| error.why.to_string())?;
    // The whole chain stands where it is used.
    hand_over(grant.accessor, &[parent, passed])
}

pub(crate) fn revoke(mut options: Options) -> Said<()> {
    let key = signer(&mut options)?;
    let (kind, what, digest) = (wanted(options.word())?, wanted(options.word())?, options.word());
    nothing_left(&options)?;
    let (revocation, capability) = match (kind, digest) {
        ("object", None) => {
            let target = find("context", what).map_err(about(what))?;
            let epoch = syscall::object_stat(target).map_err(about(target))?.epoch;
            (key.revoke_object(target, epoch + 1), None)
        }
        ("context", None) => (key.revoke_context(find_context(what)?), None),
        ("capability", Some(digest)) => {
            let found = find_capability(find_context(what)?, digest)?;
            (key.revoke_capability(&found), Some(found))
        }
        _ => return Err(USAGE.to_string()),
    };
    // Whoever holds the object's key needs no capability to show; its signer does.
    let by_signer = capability.as_ref().filter(|capability| capability.signer == key.id());
    context::revoke(&revocation, by_signer).map_err(about(what))?;
    println!("revoked");
    Ok(())
}

/// What a grant may say beside the rights.
struct Terms {
    gates: GateSet,
    seconds: u64,
    delegate: ObjectId,
    links: u64,
}

impl Terms {
    fn take(options: &mut Options) -> Said<Self> {
        let gates = text(options, "--gates")?.map_or(Some(GateSet::NONE), gates_of);
        let delegate = match text(options, "--delegate")? {
            Some(name) => keys::find("key", name).map_err(about(name))?,
            None => ObjectId::NULL,
        };
        Ok(Self {
            gates: gates.ok_or("--gates needs FIRST or FIRST+LENGTH")?,
            seconds: number(options, "--seconds", u64::MAX)?,
            links: number(options, "--links", u64::from(!delegate.is_null()))?,
            delegate,
        })
    }

    fn apply(&self, grant: Grant) -> Said<Grant> {
        let until = match self.seconds {
            u64::MAX => u64::MAX,
            seconds => {
                let now = syscall::clock().map_err(about("the clock"))?.1;
                now.saturating_add(seconds.saturating_mul(SECOND))
            }
        };
        Ok(Grant {
            gates: self.gates,
            validity: Validity { until, ..Validity::ALWAYS },
            delegate: self.delegate,
            links_left: u32::try_from(self.links).unwrap_or(u32::MAX),
            ..grant
        })
    }
}

fn gates_of(text: &str) -> Option<GateSet> {
    let (first, length) = text.split_once('+').unwrap_or((text, "1"));
    GateSet::range(first.parse().ok()?, length.parse().ok()?, 1)
}

fn parse_rights(letters: &str) -> Said<Rights> {
    rights_of(letters).ok_or_else(|| format!("{letters}: rights are letters of rwxud"))
}

/// The capability with this digest in the table of a context.
fn find_capability(holder: ObjectId, digest: &str) -> Said<RawCap> {
    let opened = ContextObject::open(holder, Rights::READ).map_err(about(holder))?;
    let header = opened.read().map_err(about(holder))?;
    let found = header.capabilities(&opened.bytes).find(|(_, raw)| Digest::of(raw).to_string() == digest);
    found.map(|(_, raw)| raw).ok_or_else(|| format!("no capability {digest} in {holder}"))
}

/// Stores capabilities in the table of a context, and says the last one's digest.
fn hand_over(into: ObjectId, capabilities: &[RawCap]) -> Said<()> {
    let opened = ContextObject::open(into, BOTH).map_err(about(into))?;
    for capability in capabilities {
        opened.add(capability).map_err(about(into))?;
    }
    if let Some(cap) = capabilities.last().and_then(|raw| Cap::parse(raw, 0).ok()) {
        println!("{} {} to {}", cap.digest, Letters(cap.rights), cap.target);
    }
    Ok(())
}

/// Signs that threads in `accessor` may do this with `target`, now.
pub(crate) fn sign(key: &KeyPair, target: ObjectId, accessor: ObjectId, rights: Rights) -> Said<RawCap> {
    let epoch = syscall::object_stat(target).map_err(about(target))?.epoch;
    Ok(key.grant(&Grant { epoch, ..Grant::new(target, accessor, rights) }))
}
