//! Basic blocks of the guest kernel: where code begins that can be reached by itself.
//!
//! Found by decoding each section from its start to its end, which works because the kernel's text holds instructions only (a test of the
//! suite sees to it). A target that only a table of jumps names is found all the same, since it stands behind a jump, a return or a call
//! that does not come back.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, elf};
use std::collections::{BTreeMap, BTreeSet};

/// A run of instructions with one entry.
#[derive(Clone, Debug)]
pub struct Block {
    /// Address behind its last instruction.
    pub end: u64,
    /// Whether it can only end in a panic, or in no way at all.
    pub only_panics: bool,
    /// Where it may go on.
    successors: Vec<u64>,
}

/// The code of a kernel image.
#[derive(Debug)]
pub struct Code {
    /// By address.
    pub blocks: BTreeMap<u64, Block>,
    /// Names of functions as the compiler made them, by address.
    pub functions: BTreeMap<u64, String>,
    /// Contents of the sections with instructions, to tell builds apart.
    pub bytes: Vec<u8>,
}

impl Code {
    /// Decodes an ELF file.
    ///
    /// # Errors
    /// It is none, or a damaged one.
    pub fn parse(file: &[u8]) -> Result<Self, object::Error> {
        let parsed = object::File::parse(file)?;
        let functions: BTreeMap<u64, String> = parsed
            .symbols()
            .filter(|symbol| symbol.kind() == object::SymbolKind::Text)
            .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_owned())))
            .collect();
        let mut code = Self { blocks: BTreeMap::new(), functions, bytes: Vec::new() };
        for section in parsed.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
            if sh_flags & u64::from(elf::SHF_EXECINSTR) != 0 {
                let data = section.data()?;
                code.bytes.extend_from_slice(data);
                code.add_section(data, section.address());
            }
        }
        code.spread_panics();
        Ok(code)
    }

    fn add_section(&mut self, data: &[u8], address: u64) {
        let end = address + data.len() as u64;
        let instructions: Vec<Instruction> =
            Decoder::with_ip(64, data, address, DecoderOptions::NONE).into_iter().collect();
        let mut starts: BTreeSet<u64> =
            self.functions.range(address..end).map(|(&address, _)| address).collect();
        let mut is_behind_jump = true;
        for instruction in &instructions {
            if is_behind_jump && !is_padding(instruction) {
                starts.insert(instruction.ip());
                is_behind_jump = false;
            }
            match instruction.flow_control() {
                FlowControl::ConditionalBranch => {
                    starts.insert(instruction.near_branch_target());
                    starts.insert(instruction.next_ip());
                }
                FlowControl::UnconditionalBranch => {
                    starts.insert(instruction.near_branch_target());
                    is_behind_jump = true;
                }
                FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => {
                    is_behind_jump = true;
                }
                FlowControl::Call if self.is_panic(instruction.near_branch_target()) => is_behind_jump = true,
                _ => {}
            }
        }
        starts.retain(|start| (address..end).contains(start));
        let mut current: Option<(u64, Block)> = None;
        for instruction in &instructions {
            if starts.contains(&instruction.ip()) {
                self.finish(current.take(), Some(instruction.ip()));
                current =
                    Some((instruction.ip(), Block { end: 0, only_panics: false, successors: Vec::new() }));
            }
            let Some((_, block)) = &mut current else { continue };
            block.end = instruction.next_ip();
            let target = instruction.near_branch_target();
            match instruction.flow_control() {
                FlowControl::ConditionalBranch => block.successors.push(target),
                FlowControl::UnconditionalBranch => {
                    // To a function that panics: as a call of it.
                    block.only_panics = self.is_panic(target);
                    block.successors.push(target);
                    self.finish(current.take(), None);
                }
                FlowControl::Exception => {
                    block.only_panics = true;
                    self.finish(current.take(), None);
                }
                FlowControl::Call if self.is_panic(target) => {
                    block.only_panics = true;
                    self.finish(current.take(), None);
                }
                FlowControl::Return | FlowControl::IndirectBranch => self.finish(current.take(), None),
                _ => {}
            }
        }
        self.finish(current.take(), None);
    }

    fn finish(&mut self, block: Option<(u64, Block)>, falls_to: Option<u64>) {
        let Some((start, mut block)) = block else { return };
        block.successors.extend(falls_to);
        self.blocks.insert(start, block);
    }

    fn is_panic(&self, target: u64) -> bool {
        const NAMES: [&str; 5] =
            ["panic", "unwrap_failed", "expect_failed", "slice_index", "trap_from_ring0"];
        self.functions.get(&target).is_some_and(|name| NAMES.iter().any(|part| name.contains(part)))
    }

    /// A block from which only such blocks can be reached is one itself.
    fn spread_panics(&mut self) {
        loop {
            let panics = |block: &Block| {
                let leads = |target| self.blocks.get(target).is_some_and(|block| block.only_panics);
                !block.only_panics && !block.successors.is_empty() && block.successors.iter().all(leads)
            };
            let found: Vec<u64> =
                self.blocks.iter().filter(|(_, block)| panics(block)).map(|(&start, _)| start).collect();
            if found.is_empty() {
                return;
            }
            for start in found {
                if let Some(block) = self.blocks.get_mut(&start) {
                    block.only_panics = true;
                }
            }
        }
    }

    /// Name and start of the function that `address` lies in.
    #[must_use]
    pub fn function(&self, address: u64) -> Option<(u64, &str)> {
        let (&start, name) = self.functions.range(..=address).next_back()?;
        Some((start, name))
    }
}

fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3 | Mnemonic::Ud2)
}
