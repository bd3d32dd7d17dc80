//! Link arguments of the programs; only when they are really built for the guest.

fn main() {
    twz_build::program();
}
