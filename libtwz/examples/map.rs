//! A persistent map from names to numbers, with the collection.
use libtwz::collections::{HashMap, String};
use libtwz::prelude::*;

#[derive(Invariant)]
#[repr(C)]
struct Shop {
    prices: HashMap<u64, u64>,
    title: String,
}

fn main() -> Result<()> {
    let shop = ObjectBuilder::new().build(Shop { prices: HashMap::new(), title: String::new() })?;
    shop.tx(|tx| {
        shop.title.set_in(tx, "corner shop")?;
        shop.prices.insert_in(tx, 17, 250)?;
        shop.prices.insert_in(tx, 18, 399).map(drop)
    })?;
    shop.prices.insert(17, 275)?;
    for item in shop.prices.iter() {
        let (article, cents) = item?;
        println!("{}: article {article} costs {cents} cents", shop.title.get()?);
    }
    Ok(())
}
