//! Link arguments of the kernel image; only for the image, so that the library stays an ordinary crate.

fn main() {
    println!("cargo:rerun-if-changed=kernel.ld");
    twz_build::bare("IMAGE", include_str!("kernel.ld"), &[]);
}
