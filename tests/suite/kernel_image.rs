//! The guest kernel's code: no vector or floating-point instruction outside of the saving and restoring of threads' state.
//!
//! Ring 0 has no registers of that kind of its own, so any use would destroy a program's; and KVM without hardware ring 0
//! cannot run them there at all.

use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, Register,
};
use object::{Object, ObjectSection, SectionFlags, elf};

/// What saving and restoring is made of.
const STATE_INSTRUCTIONS: [Mnemonic; 8] = [
    Mnemonic::Fxsave64,
    Mnemonic::Fxrstor64,
    Mnemonic::Xsave64,
    Mnemonic::Xsaveopt64,
    Mnemonic::Xrstor64,
    Mnemonic::Xsetbv,
    Mnemonic::Xgetbv,
    Mnemonic::Fninit,
];

/// What a scan found.
struct Scan {
    instructions: usize,
    /// Saving and restoring.
    state_instructions: usize,
    /// Address and text of each forbidden instruction.
    forbidden: Vec<String>,
    /// Addresses that hold no instruction.
    undecodable: Vec<u64>,
}

fn scan(file: &[u8]) -> Scan {
    let parsed = object::File::parse(file).expect("an ELF file");
    let mut found =
        Scan { instructions: 0, state_instructions: 0, forbidden: Vec::new(), undecodable: Vec::new() };
    let mut info = InstructionInfoFactory::new();
    for section in parsed.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        if sh_flags & u64::from(elf::SHF_EXECINSTR) == 0 {
            continue;
        }
        let data = section.data().expect("sections lie in the file");
        let mut decoder = Decoder::with_ip(64, data, section.address(), DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            found.instructions += 1;
            if instruction.is_invalid() {
                found.undecodable.push(instruction.ip());
            } else if STATE_INSTRUCTIONS.contains(&instruction.mnemonic()) {
                found.state_instructions += 1;
            } else if is_forbidden(&mut info, &instruction) {
                found.forbidden.push(format!("{:#x}: {instruction}", instruction.ip()));
            }
        }
    }
    found
}

fn is_forbidden(info: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    let used = info.info(instruction).used_registers();
    let vector = |register: Register| {
        register.is_vector_register()
            || register.is_mm()
            || register.is_st()
            || register.is_k()
            || register.is_tmm()
    };
    let float = |feature: &CpuidFeature| {
        matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 | CpuidFeature::MMX)
    };
    used.iter().any(|used| vector(used.register())) || instruction.cpuid_features().iter().any(float)
}

/// Most lines of the kernel's sources, tests and comments included, and most bytes of its image.
const LINES_MAX: usize = 6000;
const IMAGE_MAX: usize = 300 << 10;

fn lines_below(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let counts = path.is_dir() || path.extension().is_some_and(|kind| kind == "rs" || kind == "ld");
            match counts {
                true if path.is_dir() => lines_below(&path),
                true => std::fs::read_to_string(&path).unwrap().lines().count(),
                false => 0,
            }
        })
        .sum()
}

#[test]
fn is_small() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-kernel");
    let lines = lines_below(&sources);
    assert!(lines > 1000, "only {lines} lines: are these the sources?");
    assert!(lines <= LINES_MAX, "{lines} lines");
    let image = images::Image::parse(images::DEFAULT).unwrap().kernel.len();
    assert!(image <= IMAGE_MAX, "{image} bytes");
    eprintln!("the kernel: {lines} lines, {image} bytes");
}

/// `--coverage` notes what was reached, and nothing that was not.
#[test]
fn reached_code_is_told_from_the_rest() {
    let image = images::Image::parse(images::DEFAULT).unwrap();
    let code = tests::blocks::Code::parse(image.kernel).unwrap();
    assert!(code.blocks.len() > 1000, "{} blocks", code.blocks.len());
    let Some(machine) = tests::Machine::new(tests::Place::Local) else { return };
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("left");
    let lines: String = code.blocks.keys().map(|address| format!("{address:x}\n")).collect();
    std::fs::write(&list, lines).unwrap();
    let list_name = list.to_str().unwrap();
    let left = |program: &[&str]| {
        let pool = machine.pool();
        let options = ["twzvmm", "--pmem", &pool, "--create", "64M", "--coverage", list_name, "--"];
        machine.run(&[&options[..], program].concat());
        let text = std::fs::read_to_string(&list).unwrap();
        text.lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect::<Vec<_>>()
    };
    let function = |name: &str| {
        let found = code.functions.iter().find(|(_, known)| known.contains(name));
        *found.unwrap_or_else(|| panic!("no function {name}")).0
    };
    let (entry, gates) = (function("trap_from_ring3"), function("end_call"));
    let first = left(&["counter"]);
    assert!(first.len() < code.blocks.len() && first.len() > code.blocks.len() / 4, "{} left", first.len());
    assert!(!first.contains(&entry), "the entry from ring 3 was not reached");
    assert!(first.contains(&gates), "a program without gates has reached their code");
    let second = left(&["selftest", "fault-causes"]);
    assert!(second.len() < first.len(), "what another program reaches does not add up");
}

#[test]
fn holds_no_vector_or_float_instruction() {
    let image = images::Image::parse(images::DEFAULT).unwrap();
    let found = scan(image.kernel);
    assert!(found.instructions > 2000, "only {} instructions: is this the kernel?", found.instructions);
    assert!(found.state_instructions >= 4, "only {} that save or restore state", found.state_instructions);
    assert!(found.undecodable.is_empty(), "not instructions: {:x?}", found.undecodable);
    assert!(
        found.forbidden.is_empty(),
        "{} forbidden:\n{}",
        found.forbidden.len(),
        found.forbidden.join("\n")
    );
}

/// The scan can tell: an ordinary program of this host is full of them.
#[test]
fn the_scan_finds_them_in_an_ordinary_program() {
    let program = std::fs::read("/proc/self/exe").unwrap();
    let found = scan(&program);
    assert!(found.forbidden.len() > 1000, "{}", found.forbidden.len());
    for text in ["xmm", "fld", "ymm"] {
        assert!(found.forbidden.iter().any(|line| line.contains(text)), "none with {text}");
    }
}
