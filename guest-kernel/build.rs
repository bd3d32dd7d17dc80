//! Link arguments of the kernel image; only for the image, so that the library stays an ordinary crate.

include!("link.rs");

fn main() {
    println!("cargo:rerun-if-changed=link.rs");
    link_bare("IMAGE", "kernel.ld", &[]);
}
