//! Link arguments of the programs; only when they are really built for the guest.

include!("../guest-kernel/link.rs");

fn main() {
    println!("cargo:rerun-if-changed=../guest-kernel/link.rs");
    // The precompiled `alloc` names it; nothing unwinds.
    link_bare("GUEST", "../twz-rt/program.ld", &["-Wl,--defsym=_Unwind_Resume=0"]);
}
