//! Is a component no more than one module and the host's functions? Read from its wiring.
//!
//! `wit-component` makes such components of one module: a *shim* module, whose functions call through
//! a table, stands in for the host's functions that need the module's memory, and a *fixup* module
//! fills that table once the memory exists. Every wire is followed here, and both modules are read;
//! a component that has anything else, or anything twice, is not of this kind. Nothing is guessed
//! from names alone.

use wasmparser::{
    CanonicalFunction, CanonicalOption, Chunk, ComponentAlias, ComponentExternalKind,
    ComponentTypeRef, ElementItems, ElementKind, ExternalKind, Instance, Operator, Parser, Payload,
    TypeRef,
};

use super::ahead;

/// The export that allocates in a module's memory.
pub(super) const REALLOC: &str = "cabi_realloc";
/// A module's memory.
pub(super) const MEMORY: &str = "memory";

/// The one module of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Main<'w> {
    /// Its bytes.
    pub(crate) wasm: &'w [u8],
    /// Its export that is the component's handler.
    pub(crate) handler: &'w str,
}

/// The one module of a component, if it is of this kind.
pub(crate) fn main_module(component: &[u8]) -> Option<Main<'_>> {
    let main = Wiring::read(component)?.main()?;
    (!ahead::speaks_for_the_host(main.wasm)).then_some(main)
}

/// What a component is made of, each list in the order of its index space.
#[derive(Default)]
struct Wiring<'w> {
    modules: Vec<&'w [u8]>,
    core_instances: Vec<Instance<'w>>,
    core_funcs: Vec<CoreFunc<'w>>,
    /// Of which core instance, and under which name.
    core_memories: Vec<(u32, &'w str)>,
    core_tables: Vec<(u32, &'w str)>,
    /// The name of what is imported; none: made inside.
    instances: Vec<Option<&'w str>>,
    funcs: Vec<Func<'w>>,
    /// Of which interface and name; none: another type.
    types: Vec<Option<(&'w str, &'w str)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum CoreFunc<'w> {
    /// A function of the host.
    Host { interface: &'w str, name: &'w str, options: Options },
    /// Lets go of a resource of the host's.
    Drop { interface: &'w str, resource: &'w str },
    /// An export of an instance.
    Export { instance: u32, name: &'w str },
    /// Anything else.
    Other,
}

/// How the host reaches a module's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Options {
    memory: Option<u32>,
    realloc: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Func<'w> {
    /// A function of an imported interface.
    Host { interface: &'w str, name: &'w str },
    /// A core function as a function of the component, without options.
    Lifted(u32),
    /// Anything else.
    Other,
}

impl<'w> Wiring<'w> {
    fn read(wasm: &'w [u8]) -> Option<Self> {
        let mut wiring = Self::default();
        let mut parser = Parser::new(0);
        let mut offset = 0;
        loop {
            let parsed = parser.parse(&wasm[offset..], true).ok()?;
            let Chunk::Parsed { payload, consumed } = parsed else { return None };
            offset += consumed;
            match payload {
                Payload::ModuleSection { unchecked_range: range, .. } => {
                    wiring.modules.push(wasm.get(range.clone())?);
                    offset = range.end;
                }
                // It only gives the handler its interface: with a module inside it would do more.
                Payload::ComponentSection { unchecked_range: range, .. } => {
                    if holds_code(wasm.get(range.clone())?) {
                        return None;
                    }
                    offset = range.end;
                }
                Payload::InstanceSection(section) => {
                    for instance in section {
                        wiring.core_instances.push(instance.ok()?);
                    }
                }
                Payload::ComponentImportSection(section) => {
                    for import in section {
                        let import = import.ok()?;
                        match import.ty {
                            ComponentTypeRef::Instance(_) => {
                                wiring.instances.push(Some(import.name.name));
                            }
                            ComponentTypeRef::Type(_) => wiring.types.push(None),
                            _ => return None,
                        }
                    }
                }
                Payload::ComponentTypeSection(section) => {
                    wiring.types.extend((0..section.count()).map(|_| None));
                }
                Payload::ComponentAliasSection(section) => {
                    for alias in section {
                        wiring.alias(alias.ok()?)?;
                    }
                }
                Payload::ComponentCanonicalSection(section) => {
                    for function in section {
                        wiring.canonical(function.ok()?)?;
                    }
                }
                Payload::ComponentInstanceSection(section) => {
                    wiring.instances.extend((0..section.count()).map(|_| None));
                }
                Payload::ComponentExportSection(section) => {
                    for export in section {
                        match export.ok()?.kind {
                            ComponentExternalKind::Instance => wiring.instances.push(None),
                            _ => return None,
                        }
                    }
                }
                Payload::Version { .. } | Payload::CustomSection(_) => {}
                Payload::End(_) => return Some(wiring),
                _ => return None,
            }
        }
    }

    fn alias(&mut self, alias: ComponentAlias<'w>) -> Option<()> {
        match alias {
            ComponentAlias::InstanceExport { kind, instance_index, name } => {
                let interface = *self.instances.get(instance_index as usize)?;
                match kind {
                    ComponentExternalKind::Func => self.funcs.push(match interface {
                        Some(interface) => Func::Host { interface, name },
                        None => Func::Other,
                    }),
                    ComponentExternalKind::Type => {
                        self.types.push(interface.map(|interface| (interface, name)));
                    }
                    _ => return None,
                }
            }
            ComponentAlias::CoreInstanceExport { kind, instance_index: instance, name } => {
                match kind {
                    ExternalKind::Func => self.core_funcs.push(CoreFunc::Export { instance, name }),
                    ExternalKind::Memory => self.core_memories.push((instance, name)),
                    ExternalKind::Table => self.core_tables.push((instance, name)),
                    _ => return None,
                }
            }
            ComponentAlias::Outer { .. } => return None,
        }
        Some(())
    }

    fn canonical(&mut self, function: CanonicalFunction) -> Option<()> {
        match function {
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                let plain = options.iter().all(|option| *option == CanonicalOption::UTF8);
                self.funcs.push(if plain { Func::Lifted(core_func_index) } else { Func::Other });
            }
            CanonicalFunction::Lower { func_index, options } => {
                let lowered = match (self.funcs.get(func_index as usize)?, reach(&options)) {
                    (&Func::Host { interface, name }, Some(options)) => {
                        CoreFunc::Host { interface, name, options }
                    }
                    _ => CoreFunc::Other,
                };
                self.core_funcs.push(lowered);
            }
            CanonicalFunction::ResourceDrop { resource } => {
                self.core_funcs.push(match *self.types.get(resource as usize)? {
                    Some((interface, resource)) => CoreFunc::Drop { interface, resource },
                    None => CoreFunc::Other,
                });
            }
            _ => return None,
        }
        Some(())
    }

    /// The one module, when all else is what carries its calls to the host.
    fn main(&self) -> Option<Main<'w>> {
        let mut lifted = self.funcs.iter().filter_map(|func| match func {
            Func::Lifted(func) => Some(*func),
            _ => None,
        });
        let (handler, None) = (lifted.next()?, lifted.next()) else { return None };
        let &CoreFunc::Export { instance: main, name: handler } = self.core_func(handler)? else {
            return None;
        };
        let wasm = *self.modules.get(self.module_of(main)? as usize)?;
        let wires = Wires { wiring: self, main, shim: self.shim(main)? };
        for import in imports_of(wasm)? {
            let (TypeRef::Func(_), from, name) = import else { return None };
            let instance = self.argument(main, from)?;
            let func = self.exported(instance, name)?;
            wires.lead_to_host(func, from, name).then_some(())?;
        }
        Some(Main { wasm, handler })
    }

    fn core_func(&self, index: u32) -> Option<&CoreFunc<'w>> {
        self.core_funcs.get(index as usize)
    }

    fn module_of(&self, instance: u32) -> Option<u32> {
        match self.core_instances.get(instance as usize)? {
            Instance::Instantiate { module_index, .. } => Some(*module_index),
            Instance::FromExports(_) => None,
        }
    }

    /// What an instance was given under a name.
    fn argument(&self, instance: u32, name: &str) -> Option<u32> {
        let Instance::Instantiate { args, .. } = self.core_instances.get(instance as usize)? else {
            return None;
        };
        args.iter().find(|arg| arg.name == name).map(|arg| arg.index)
    }

    /// A function of an instance that was put together.
    fn exported(&self, instance: u32, name: &str) -> Option<&CoreFunc<'w>> {
        let Instance::FromExports(exports) = self.core_instances.get(instance as usize)? else {
            return None;
        };
        let mut found = exports.iter().filter(|export| export.name == name);
        let (export, None) = (found.next()?, found.next()) else { return None };
        (export.kind == ExternalKind::Func).then(|| self.core_func(export.index)).flatten()
    }

    /// The shim's instance and what the fixup puts into its table; none of both is fine as well.
    fn shim(&self, main: u32) -> Option<Option<Shim>> {
        let instantiated = |at: &u32| self.module_of(*at).is_some_and(|_| *at != main);
        let others: Vec<u32> = (0..self.core_instances.len() as u32).filter(instantiated).collect();
        let (shim, fixup) = match others[..] {
            [] if self.modules.len() == 1 => return Some(None),
            [shim, fixup] if self.modules.len() == 3 => (shim, fixup),
            _ => return None,
        };
        let module = |instance| Some(*self.modules.get(self.module_of(instance)? as usize)?);
        let slots = shim_slots(module(shim)?)?;
        if fixup_slots(module(fixup)?)? != slots {
            return None;
        }
        let filled = self.argument(fixup, "")?;
        let Instance::FromExports(exports) = self.core_instances.get(filled as usize)? else {
            return None;
        };
        let table = exports.iter().find(|export| export.name == TABLE)?;
        let table = self.core_tables.get(table.index as usize)?;
        (*table == (shim, TABLE)).then_some(Some(Shim { instance: shim, filled }))
    }
}

/// The export of the shim's table, and what the fixup knows it by.
const TABLE: &str = "$imports";

struct Shim {
    instance: u32,
    /// What the fixup was given.
    filled: u32,
}

/// From a function that the module imports to the host's.
struct Wires<'r, 'w> {
    wiring: &'r Wiring<'w>,
    main: u32,
    shim: Option<Shim>,
}

impl Wires<'_, '_> {
    /// Whether this is the host's function of exactly that interface and name.
    fn lead_to_host(&self, func: &CoreFunc<'_>, from: &str, named: &str) -> bool {
        match func {
            CoreFunc::Host { interface, name, options } => {
                *interface == from && *name == named && self.reaches_main(options)
            }
            CoreFunc::Drop { interface, resource } => {
                *interface == from && named.strip_prefix("[resource-drop]") == Some(resource)
            }
            CoreFunc::Export { instance, name } => {
                let Some(shim) = self.shim.as_ref().filter(|shim| shim.instance == *instance)
                else {
                    return false;
                };
                let behind = self.wiring.exported(shim.filled, name);
                matches!(behind, Some(CoreFunc::Host { interface, name, options })
                    if *interface == from && *name == named && self.reaches_main(options))
            }
            CoreFunc::Other => false,
        }
    }

    /// Whether it is the module's own memory that is read and written, and its own allocator.
    fn reaches_main(&self, options: &Options) -> bool {
        let memory = options.memory.is_none_or(|memory| {
            self.wiring.core_memories.get(memory as usize) == Some(&(self.main, MEMORY))
        });
        let realloc = options.realloc.is_none_or(|realloc| {
            self.wiring.core_func(realloc)
                == Some(&CoreFunc::Export { instance: self.main, name: REALLOC })
        });
        memory && realloc
    }
}

/// What of a module the host may reach; none: in another way than is known here.
fn reach(options: &[CanonicalOption]) -> Option<Options> {
    let mut reach = Options::default();
    for option in options {
        match option {
            CanonicalOption::UTF8 => {}
            CanonicalOption::Memory(memory) => reach.memory = Some(*memory),
            CanonicalOption::Realloc(realloc) => reach.realloc = Some(*realloc),
            _ => return None,
        }
    }
    Some(reach)
}

/// Whether there is a module or a function made of one in a nested component.
fn holds_code(wasm: &[u8]) -> bool {
    Parser::new(0).parse_all(wasm).any(|payload| {
        !matches!(
            payload,
            Ok(Payload::Version { .. }
                | Payload::ComponentTypeSection(_)
                | Payload::ComponentImportSection(_)
                | Payload::ComponentExportSection(_)
                | Payload::ComponentAliasSection(_)
                | Payload::CustomSection(_)
                | Payload::End(_))
        )
    })
}

type Import<'w> = (TypeRef, &'w str, &'w str);

fn imports_of(wasm: &[u8]) -> Option<Vec<Import<'_>>> {
    let mut imports = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.ok()?;
                    imports.push((import.ty, import.module, import.name));
                }
            }
            // It comes after the imports.
            Payload::FunctionSection(_) | Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Some(imports)
}

/// How many functions a shim has, each of which calls its own slot of the table with what it is
/// given, and does nothing else.
fn shim_slots(wasm: &[u8]) -> Option<u32> {
    let (mut slots, mut exported) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.ok()?;
                    match export.kind {
                        ExternalKind::Func if export.name == export.index.to_string() => {
                            exported += 1;
                        }
                        ExternalKind::Table if export.name == TABLE && export.index == 0 => {}
                        _ => return None,
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                calls_slot(&body, slots)?;
                slots += 1;
            }
            Payload::Version { .. }
            | Payload::TypeSection(_)
            | Payload::FunctionSection(_)
            | Payload::TableSection(_)
            | Payload::CodeSectionStart { .. }
            | Payload::CustomSection(_)
            | Payload::End(_) => {}
            _ => return None,
        }
    }
    (slots == exported).then_some(slots)
}

/// `local.get` of each parameter, the slot, the call.
fn calls_slot(body: &wasmparser::FunctionBody<'_>, slot: u32) -> Option<()> {
    if body.get_locals_reader().ok()?.get_count() != 0 {
        return None;
    }
    let mut operators = body.get_operators_reader().ok()?.into_iter();
    let mut parameters = 0;
    loop {
        match operators.next()?.ok()? {
            Operator::LocalGet { local_index } if local_index == parameters => parameters += 1,
            // Too few parameters would not have passed validation.
            Operator::I32Const { value } if u32::try_from(value) == Ok(slot) => break,
            _ => return None,
        }
    }
    matches!(operators.next()?.ok()?, Operator::CallIndirect { table_index: 0, .. })
        .then_some(())?;
    matches!(operators.next()?.ok()?, Operator::End).then_some(())?;
    operators.next().is_none().then_some(())
}

/// How many functions a fixup puts into the table, in the order of their names.
fn fixup_slots(wasm: &[u8]) -> Option<u32> {
    let mut imported = 0;
    let mut filled = None;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.ok()?;
                    match import.ty {
                        TypeRef::Func(_)
                            if import.module.is_empty() && import.name == imported.to_string() =>
                        {
                            imported += 1;
                        }
                        TypeRef::Table(_) if import.module.is_empty() && import.name == TABLE => {}
                        _ => return None,
                    }
                }
            }
            Payload::ElementSection(section) => {
                for element in section {
                    let element = element.ok()?;
                    let ElementKind::Active { table_index: None | Some(0), offset_expr } =
                        element.kind
                    else {
                        return None;
                    };
                    let mut offset = offset_expr.get_operators_reader().into_iter();
                    matches!(offset.next()?.ok()?, Operator::I32Const { value: 0 }).then_some(())?;
                    matches!(offset.next()?.ok()?, Operator::End).then_some(())?;
                    let ElementItems::Functions(functions) = element.items else { return None };
                    let mut count = 0;
                    for function in functions {
                        (function.ok()? == count).then_some(())?;
                        count += 1;
                    }
                    filled.replace(count).is_none().then_some(())?;
                }
            }
            Payload::Version { .. }
            | Payload::TypeSection(_)
            | Payload::CustomSection(_)
            | Payload::End(_) => {}
            _ => return None,
        }
    }
    (filled == Some(imported)).then_some(imported)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str) -> Vec<u8> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        std::fs::read(root.join(name)).unwrap()
    }

    #[test]
    fn a_component_of_one_module_is_known() {
        for name in ["examples/hello/hello.wasm", "examples/echo/echo.wasm"] {
            let wasm = guest(name);
            let main = main_module(&wasm).expect(name);
            assert_eq!(main.handler, "wasi:http/incoming-handler@0.2.12#handle");
            assert!(Parser::is_core_wasm(main.wasm));
        }
    }

    #[test]
    fn a_component_with_an_adapter_is_another() {
        assert_eq!(main_module(&guest("examples/greet-c/greet-c.wasm")), None);
    }

    #[test]
    fn what_is_no_component_is_none() {
        assert_eq!(main_module(b""), None);
        assert_eq!(main_module(&guest("tests/guests/core-module.wasm")), None);
        let hello = guest("examples/hello/hello.wasm");
        for length in (0..hello.len()).step_by(97) {
            assert_eq!(main_module(&hello[..length]), None, "{length}");
        }
    }

    /// A component of one module that drops its request, or what `dropped` names instead.
    fn drops(dropped: &str) -> Vec<u8> {
        let text = format!(
            r#"(component
  (import "wasi:http/types@0.2.12" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (core module $main
    (import "wasi:http/types@0.2.12" "[resource-drop]incoming-request" (func (param i32)))
    (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)))
  (core func $drop (canon resource.drop {dropped}))
  (core instance $host (export "[resource-drop]incoming-request" (func $drop)))
  (core instance $main (instantiate $main (with "wasi:http/types@0.2.12" (instance $host))))
  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $main "wasi:http/incoming-handler@0.2.12#handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.12" (instance $handler)))"#
        );
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_found_out() {
        assert!(main_module(&drops("$request")).is_some());
        assert_eq!(main_module(&drops("$out")), None);
    }

    #[test]
    fn a_shim_does_nothing_but_call_its_slots() {
        let shim = |name: &str, body: &str| {
            let text = format!(
                r#"(module (type $call (func (param i32 i32)))
  (table (export "$imports") 2 2 funcref)
  (func (export "0") (type $call)
    local.get 0 local.get 1 i32.const 0 call_indirect (type $call))
  (func (export "{name}") (type $call) {body}))"#
            );
            shim_slots(&wat::parse_str(text).unwrap())
        };
        let call = "i32.const 1 call_indirect (type $call)";
        assert_eq!(shim("1", &format!("local.get 0 local.get 1 {call}")), Some(2));
        assert_eq!(shim("2", &format!("local.get 0 local.get 1 {call}")), None);
        assert_eq!(shim("1", &format!("local.get 1 local.get 0 {call}")), None);
        assert_eq!(shim("1", &format!("local.get 0 local.get 1 {call} nop")), None);
        let other = "local.get 0 local.get 1 i32.const 0 call_indirect (type $call)";
        assert_eq!(shim("1", other), None);
    }

    #[test]
    fn a_fixup_fills_the_slots_in_their_order() {
        let fixup = |elements: &str| {
            let text = format!(
                r#"(module (import "" "0" (func)) (import "" "1" (func))
  (import "" "$imports" (table 2 2 funcref)) {elements})"#
            );
            fixup_slots(&wat::parse_str(text).unwrap())
        };
        assert_eq!(fixup("(elem (i32.const 0) func 0 1)"), Some(2));
        for other in [
            "(elem (i32.const 0) func 1 0)",
            "(elem (i32.const 1) func 0 1)",
            "(elem (i32.const 0) func 0)",
            "(elem (i32.const 0) func 0 1) (elem (i32.const 0) func 0 1)",
            "(elem (i32.const 0) func 0 1) (func) (start 2)",
        ] {
            assert_eq!(fixup(other), None, "{other}");
        }
    }
}
