//! A module whose heap has grown already: what its allocator does at the first allocation of every
//! call is done once, when it is compiled.
//!
//! Many allocators get their memory by growing it, so that a fresh instance grows at its first
//! allocation. That is one change of page protection per call, and another one when the slot is used
//! again, each of which interrupts every core that runs guests: a third of a short call. So the module's
//! allocator is asked for some room once, as a host may ask it at any time; it gives most of it back; and
//! what that left in memory and in globals becomes the module's own beginning. What lies beyond the
//! memory's size still traps. The idea is Wizer's (Bytecode Alliance), for one call of the allocator.
//!
//! A module whose allocator needs the host for that, or does anything but compute, stays as it is.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use wasm_encoder::{
    CodeSection, ConstExpr, DataCountSection, DataSection, ExportKind, ExportSection,
    GlobalSection, MemorySection, RawSection, Section,
};
use wasmparser::{
    CompositeInnerType, DataKind, Export, ExternalKind, FunctionBody, GlobalType, MemoryType,
    Operator, Parser, Payload, ValType,
};
use wasmtime::{Config, Engine, Linker, Module, Store, StoreLimits, StoreLimitsBuilder, TypedFunc};

use super::read::{MEMORY, REALLOC};

/// Room that is asked for, in bytes: what a request of some kilobytes takes to parse and answer.
const ROOM_BYTES: u32 = 112 << 10;
/// The alignment of what is asked for.
const ALIGN: u32 = 8;
/// What is kept of it, in bytes.
const KEPT_BYTES: u32 = 1;
/// Most that the memory may have grown by, in bytes: it becomes part of the artifact.
const GROWN_BYTES_MAX: u64 = 1 << 20;
/// Largest memory that is looked at, in bytes.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// What the allocator may take, in fuel: about as many instructions.
const FUEL: u64 = 1_000_000;
/// Differences of memory that are this near each other, in bytes, become one.
const GAP_BYTES: usize = 64;
/// Most differences: an allocator writes a few words.
const DIFFERENCES_MAX: usize = 1_000;
/// Bytes of a page of memory.
const PAGE_BYTES: u64 = 64 << 10;
/// Begins names of exports that are the host's alone.
const RESERVED: &str = "nigh:";
/// Begins the name of the export that says by how many bytes the memory has grown ahead.
const GROWN: &str = "nigh:grown=";
/// Begins the names under which globals are read.
const GLOBAL: &str = "nigh:global=";

/// The module with its heap grown; none: it stays as it is.
pub(crate) fn grown(wasm: &[u8]) -> Option<Vec<u8>> {
    let layout = Layout::read(wasm)?;
    let before_and_after = layout.try_out()?;
    layout.grown(&before_and_after)
}

/// Whether a module exports what only the host may say: it would be believed.
pub(super) fn speaks_for_the_host(wasm: &[u8]) -> bool {
    let mut payloads = Parser::new(0).parse_all(wasm);
    payloads.any(|payload| match payload {
        Ok(Payload::ExportSection(section)) => section
            .into_iter()
            .any(|export| export.is_ok_and(|export| export.name.starts_with(RESERVED))),
        _ => false,
    })
}

/// By how many bytes the memory of a module has grown ahead, as one of its exports says.
pub(super) fn grown_bytes(module: &Module) -> u64 {
    let mut names = module.exports().filter_map(|export| export.name().strip_prefix(GROWN));
    let bytes: u64 = names.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    bytes.min(GROWN_BYTES_MAX)
}

/// What of a module matters here.
struct Layout<'w> {
    wasm: &'w [u8],
    /// In their order: which, and where its bytes are.
    sections: Vec<(u8, Range<usize>)>,
    /// Functions that are imported.
    imported: u32,
    memory: MemoryType,
    /// Each with the bytes of its whole entry.
    globals: Vec<(GlobalType, &'w [u8])>,
    exports: Vec<Export<'w>>,
    bodies: Vec<FunctionBody<'w>>,
    /// Each whole segment, as it stands.
    segments: Vec<&'w [u8]>,
    realloc: u32,
}

/// A module before and after its allocator was asked.
struct Found {
    before: Vec<u8>,
    after: Vec<u8>,
    /// Mutable globals afterwards, by their index.
    globals: HashMap<u32, ConstExpr>,
}

impl<'w> Layout<'w> {
    fn read(wasm: &'w [u8]) -> Option<Self> {
        let (mut sections, mut imported) = (Vec::new(), 0);
        let (mut memories, mut globals, mut exports) = (Vec::new(), Vec::new(), Vec::new());
        let (mut bodies, mut segments) = (Vec::new(), Vec::new());
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.ok()?;
            sections.extend(payload.as_section());
            match payload {
                Payload::TypeSection(section) => {
                    for group in section {
                        let mut types = group.ok()?.into_types();
                        // References to others of a group would have to be kept apart.
                        let is_func = |inner: &_| matches!(inner, CompositeInnerType::Func(_));
                        types.all(|ty| is_func(&ty.composite_type.inner)).then_some(())?;
                    }
                }
                Payload::ImportSection(section) => imported = section.count(),
                Payload::MemorySection(section) => {
                    for memory in section {
                        memories.push(memory.ok()?);
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section.into_iter_with_offsets() {
                        let (at, global) = global.ok()?;
                        let end = global.init_expr.get_binary_reader().range().end;
                        globals.push((global.ty, wasm.get(at..end)?));
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        exports.push(export.ok()?);
                    }
                }
                Payload::CodeSectionEntry(body) => bodies.push(body),
                Payload::DataSection(section) => {
                    for segment in section {
                        let segment = segment.ok()?;
                        // A passive one is used at a time that the module chooses.
                        let DataKind::Active { .. } = segment.kind else { return None };
                        segments.push(wasm.get(segment.range)?);
                    }
                }
                // It would run once more, on what it left behind.
                Payload::StartSection { .. } => return None,
                _ => {}
            }
        }
        let [memory] = memories[..] else { return None };
        let is_plain = !memory.memory64 && !memory.shared && memory.page_size_log2.is_none();
        let is_small = memory.initial <= MEMORY_BYTES_MAX / PAGE_BYTES;
        let found = |kind, name| exports.iter().find(|e| e.kind == kind && e.name == name);
        let realloc = found(ExternalKind::Func, REALLOC)?.index;
        found(ExternalKind::Memory, MEMORY)?;
        (is_plain && is_small).then_some(())?;
        Some(Self { wasm, sections, imported, memory, globals, exports, bodies, segments, realloc })
    }

    /// The functions that the allocator calls by name, itself included; none: one of them does what is
    /// not seen in memory and globals.
    fn reached(&self) -> Option<BTreeSet<u32>> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![self.realloc]);
        while let Some(function) = open.pop() {
            if !reached.insert(function) {
                continue;
            }
            // One of the host's traps when it is called.
            let Some(at) = function.checked_sub(self.imported) else { continue };
            for operator in self.bodies.get(at as usize)?.get_operators_reader().ok()? {
                match operator.ok()? {
                    Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                        open.push(function_index);
                    }
                    Operator::TableSet { .. }
                    | Operator::TableGrow { .. }
                    | Operator::TableFill { .. }
                    | Operator::TableCopy { .. }
                    | Operator::TableInit { .. }
                    | Operator::ElemDrop { .. }
                    | Operator::MemoryInit { .. }
                    | Operator::DataDrop { .. } => return None,
                    _ => {}
                }
            }
        }
        Some(reached)
    }

    /// The module with these sections put in place of its own, one for each id.
    fn with(&self, replaced: &[&dyn Section]) -> Vec<u8> {
        let mut module = wasm_encoder::Module::HEADER.to_vec();
        for (id, range) in &self.sections {
            let as_it_was = RawSection { id: *id, data: &self.wasm[range.clone()] };
            let section = replaced.iter().find(|section| section.id() == *id);
            module.push(*id);
            section.map_or(&as_it_was as &dyn Section, |section| *section).encode(&mut module);
        }
        module
    }

    /// The module with no code but what the allocator reaches, and with its mutable globals exported.
    fn to_try(&self) -> Option<Vec<u8>> {
        let reached = self.reached()?;
        let mut code = CodeSection::new();
        for (at, body) in (self.imported..).zip(&self.bodies) {
            if reached.contains(&at) {
                code.raw(body.as_bytes());
            } else {
                // No locals, `unreachable`, `end`.
                code.raw(&[0x00, 0x00, 0x0b]);
            }
        }
        let mut exports = ExportSection::new();
        exports.export(REALLOC, ExportKind::Func, self.realloc).export(
            MEMORY,
            ExportKind::Memory,
            0,
        );
        for (index, (ty, _)) in (0..).zip(&self.globals) {
            if ty.mutable {
                exports.export(&format!("{GLOBAL}{index}"), ExportKind::Global, index);
            }
        }
        Some(self.with(&[&code, &exports]))
    }

    /// Asks the allocator for room and gives most of it back.
    fn try_out(&self) -> Option<Found> {
        let mut config = Config::new();
        config.consume_fuel(true);
        let engine = Engine::new(&config).ok()?;
        let module = Module::from_binary(&engine, &self.to_try()?).ok()?;
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&module).ok()?;
        let limits = StoreLimitsBuilder::new().memory_size(2 * MEMORY_BYTES_MAX as usize).build();
        let mut store: Store<StoreLimits> = Store::new(&engine, limits);
        store.limiter(|limits| limits);
        store.set_fuel(FUEL).ok()?;
        let instance = linker.instantiate(&mut store, &module).ok()?;
        let memory = instance.get_memory(&mut store, MEMORY)?;
        let realloc: TypedFunc<(u32, u32, u32, u32), u32> =
            instance.get_typed_func(&mut store, REALLOC).ok()?;

        let before = memory.data(&store).to_vec();
        let room = realloc.call(&mut store, (0, 0, ALIGN, ROOM_BYTES)).ok()?;
        let kept = realloc.call(&mut store, (room, ROOM_BYTES, ALIGN, KEPT_BYTES)).ok()?;
        let after = memory.data(&store).to_vec();
        let is_inside = |at: u32, length| (at as usize).saturating_add(length) <= after.len();
        let is_sane = room != 0 && room % ALIGN == 0 && is_inside(room, ROOM_BYTES as usize);
        (is_sane && kept != 0 && is_inside(kept, 1)).then_some(())?;

        let mut globals = HashMap::new();
        for (index, (ty, _)) in (0..).zip(&self.globals) {
            if ty.mutable {
                let global = instance.get_global(&mut store, &format!("{GLOBAL}{index}"))?;
                let value = match (ty.content_type, global.get(&mut store)) {
                    (ValType::I32, value) => ConstExpr::i32_const(value.i32()?),
                    (ValType::I64, value) => ConstExpr::i64_const(value.i64()?),
                    // Allocators have no others.
                    _ => return None,
                };
                globals.insert(index, value);
            }
        }
        Some(Found { before, after, globals })
    }

    /// The module as it was found afterwards.
    fn grown(&self, found: &Found) -> Option<Vec<u8>> {
        let grown_bytes = found.after.len().checked_sub(found.before.len())? as u64;
        if grown_bytes == 0 || grown_bytes > GROWN_BYTES_MAX {
            return None;
        }
        let mut memories = MemorySection::new();
        memories.memory(wasm_encoder::MemoryType {
            minimum: found.after.len() as u64 / PAGE_BYTES,
            maximum: self.memory.maximum,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut globals = GlobalSection::new();
        for (index, (ty, entry)) in (0..).zip(&self.globals) {
            match found.globals.get(&index) {
                Some(value) => {
                    let ty = wasm_encoder::GlobalType {
                        val_type: match ty.content_type {
                            ValType::I32 => wasm_encoder::ValType::I32,
                            _ => wasm_encoder::ValType::I64,
                        },
                        mutable: true,
                        shared: false,
                    };
                    globals.global(ty, value);
                }
                None => {
                    globals.raw(entry);
                }
            }
        }
        let mut exports = ExportSection::new();
        for export in &self.exports {
            exports.export(export.name, kind_of(export.kind)?, export.index);
        }
        exports.export(&format!("{GROWN}{grown_bytes}"), ExportKind::Memory, 0);
        let mut data = DataSection::new();
        for segment in &self.segments {
            data.raw(segment);
        }
        let differences = differences(&found.before, &found.after);
        if differences.len() > DIFFERENCES_MAX {
            return None;
        }
        for range in differences {
            let offset = ConstExpr::i32_const(i32::try_from(range.start).ok()?);
            data.active(0, &offset, found.after[range].iter().copied());
        }
        // A module without data has no section to replace.
        self.sections.iter().find(|(id, _)| *id == data.id())?;
        let count = DataCountSection { count: data.len() };
        Some(self.with(&[&memories, &globals, &exports, &count, &data]))
    }
}

fn kind_of(kind: ExternalKind) -> Option<ExportKind> {
    Some(match kind {
        ExternalKind::Func => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
        _ => return None,
    })
}

/// Where two memories differ; the first is as if it went on with zeros.
fn differences(before: &[u8], after: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, byte) in after.iter().enumerate() {
        if before.get(at).copied().unwrap_or(0) == *byte {
            continue;
        }
        match found.last_mut() {
            Some(last) if at - last.end < GAP_BYTES => last.end = at + 1,
            _ => found.push(at..at + 1),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An allocator that only goes on, and grows when there is no room.
    const BUMP: &str = r#"
        (module
            (import "host" "f" (func $host))
            (memory (export "memory") 1)
            (global $next (mut i32) (i32.const 1024))
            (global $fixed i64 (i64.const 7))
            (data (i32.const 16) "abc")
            (func $more (param i32)
                (if (i32.eq (memory.grow (local.get 0)) (i32.const -1)) (then (unreachable))))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $place i32)
                (local.set $place (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get $place) (local.get 3)))
                (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
                    (then (call $more (i32.const 4))))
                (i32.store (i32.const 32) (global.get $next))
                (local.get $place))
            (func (export "next") (result i32) (global.get $next))
            (func (export "calls-the-host") (call $host)))"#;

    #[test]
    fn a_module_begins_as_its_allocator_left_it_and_its_end_still_traps() {
        let wasm = wat::parse_str(BUMP).unwrap();
        let grown = super::grown(&wasm).unwrap();
        let engine = Engine::default();
        let module = Module::from_binary(&engine, &grown).unwrap();
        assert_eq!(grown_bytes(&module), 4 * PAGE_BYTES);
        assert_eq!(grown_bytes(&Module::from_binary(&engine, &wasm).unwrap()), 0);
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&module).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let memory = instance.get_memory(&mut store, MEMORY).unwrap();
        assert_eq!(memory.data_size(&store) as u64, 5 * PAGE_BYTES);
        assert_eq!(&memory.data(&store)[16..19], b"abc");
        let next = instance.get_typed_func::<(), i32>(&mut store, "next").unwrap();
        let next = next.call(&mut store, ()).unwrap();
        assert_eq!(memory.data(&store)[32..36], next.to_le_bytes());
        assert!(next > ROOM_BYTES as i32);
        let host = instance.get_typed_func::<(), ()>(&mut store, "calls-the-host").unwrap();
        assert!(host.call(&mut store, ()).is_err());
    }

    #[test]
    fn the_heap_of_a_guest_in_rust_grows_ahead() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hello/hello.wasm");
        let component = std::fs::read(path).unwrap();
        let main = super::super::main_module(&component).unwrap();
        let module = Module::from_binary(&Engine::default(), &super::grown(main.wasm).unwrap());
        let bytes = grown_bytes(&module.unwrap());
        assert!((u64::from(ROOM_BYTES)..=GROWN_BYTES_MAX).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_module_that_does_more_than_compute_stays_as_it_is() {
        for (right, wrong) in [
            // It needs the host, never ends, has no room, runs at its start, or gives nonsense.
            ("(local $place i32)", "(local $place i32) (call $host)"),
            ("(local $place i32)", "(local $place i32) (loop (br 0))"),
            ("(export \"memory\") 1", "(export \"memory\") 1 2"),
            ("(func $more", "(start $begin) (func $begin) (func $more"),
            ("(local.get $place))", "(i32.const 3))"),
            ("(local.get $place))", "(i32.const -8))"),
            // It does not grow, or what it does is not seen in memory.
            ("(export \"memory\") 1", "(export \"memory\") 9"),
            ("(data (i32.const 16) \"abc\")", "(data \"abc\")"),
            ("(local $place i32)", "(local $place i32) (elem.drop 0)"),
        ] {
            assert!(BUMP.contains(right));
            let text = BUMP.replacen(right, wrong, 1);
            let text =
                text.replacen("(func $more", "(table 1 funcref) (elem func $more) (func $more", 1);
            let wasm = wat::parse_str(&text).unwrap();
            assert_eq!(super::grown(&wasm), None, "{wrong}");
        }
        assert_eq!(super::grown(b"no module"), None);
    }

    #[test]
    fn differences_that_are_near_are_one() {
        let (before, mut after) = (vec![1, 2], vec![0; 300]);
        (after[0], after[1]) = (1, 2);
        assert_eq!(differences(&before, &after), []);
        (after[1], after[9], after[200]) = (3, 4, 5);
        assert_eq!(differences(&before, &after), [1..10, 200..201]);
        // What became zero differs too.
        after[0] = 0;
        assert_eq!(differences(&before, &after)[0], 0..10);
    }
}
