//! Counts its starts in a pool file: `cargo run --example hello -- /tmp/hello.pool`.
use libtwz::names::{Entry, Namespace};
use libtwz::prelude::*;
use libtwz::sys::hosted::{PoolStore, use_store};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let path = std::path::PathBuf::from(std::env::args().nth(1).ok_or("say where the pool is")?);
    let pool = if path.exists() { PoolStore::open(&path)? } else { PoolStore::create(&path, 64 << 20)? };
    use_store(std::sync::Arc::new(pool))?;
    let names = Namespace::root()?;
    let starts: Object<PCell<u64>> = match names.entry("/starts") {
        Ok(Entry::Object(id)) => Object::open(id)?,
        _ => {
            let made = ObjectBuilder::new().build(PCell::new(0))?;
            names.bind("/starts", made.id())?;
            made
        }
    };
    starts.tx(|tx| tx.set(&starts, starts.get() + 1))?;
    println!("hello, for the {}. time", starts.get());
    Ok(())
}
