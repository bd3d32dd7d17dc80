//! Links the program as Twizzler loads it, when it is built with feature `guest`.

fn main() {
    twz_build::program();
}
