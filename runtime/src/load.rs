//! From component to callable function: compiled once, mapped from its file, linked.

#![allow(unsafe_code, reason = "mapping a compiled file means trusting the code in it")]

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Resource, TypedFunc};
use wasmtime::{Module, Precompiled, ResourcesRequired, Store, format_err};
use wasmtime_wasi_http::p2::types::HostIncomingRequest;

use crate::answer::Outparam;
use crate::config::TABLES_PER_SLOT;
use crate::direct;
use crate::engine::{Engine, Inner};
use crate::host::Host;
use crate::instance::Instances;
use crate::{Error, inspect, memory};

/// What a function exports.
const INTERFACE: &str = "wasi:http/incoming-handler@0.2.12";

/// What a loaded function takes of memory however small it is, in bytes …
const FIXED_BYTES: u64 = 56 << 10;
/// … and of its code: itself, and what is decoded of it. Measured with 200 of each of three examples, as growth of
/// a process that has loaded them: 101 KiB with 36 KiB of code to 188 with 116; met within a tenth.
const CODE_PERCENT: u64 = 110;

/// A function's handler in one instance.
type Handler = TypedFunc<(Resource<HostIncomingRequest>, Resource<Outparam>), ()>;

/// What is instantiated for a call.
enum Linked {
    /// A component with its imports.
    Component {
        instance: InstancePre<Host>,
        handler: ComponentExportIndex,
        /// Set when an instance's handler was found to have the type that is called.
        checked: OnceLock<()>,
    },
    /// The one module of a component, with its imports.
    Module { instance: wasmtime::InstancePre<Host>, exports: direct::Exports },
}

/// An instance that was made, and how it is called.
pub(crate) enum Made {
    Component(Handler),
    Module(direct::Handler),
}

/// A function that can be called: compiled, mapped, linked. A clone is the same one.
#[derive(Clone)]
pub struct Loaded {
    inner: Arc<LoadedInner>,
    /// Where instances wait for their next call; none: each call has a fresh one.
    instances: Option<Arc<Instances>>,
}

struct LoadedInner {
    engine: Arc<Inner>,
    linked: Linked,
    /// Slots that one instance takes.
    weight: u32,
    /// What it takes of memory, by estimate.
    bytes: u64,
}

impl Engine {
    /// Compiles a component to an artifact for [`load`](Self::load), and checks that it links.
    ///
    /// Blocks for seconds with large components, on all cores, as far as calls leave them: it runs
    /// on threads of the lowest priority.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect), and when the code inside is not valid, an import has
    /// another type than the host's, or it asks for more memory or tables than there are.
    pub fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, Error> {
        inspect::inspect(wasm)?;
        let engine = &self.inner;
        let compile = || {
            let failed = |error: wasmtime::Error| Error::Compile { why: format!("{error:#}") };
            let internal = |error: wasmtime::Error| Error::Internal { why: format!("{error:#}") };
            if let Some(main) = one_module(engine, wasm) {
                let grown = direct::grown(main.wasm);
                let wasm = grown.as_deref().unwrap_or(main.wasm);
                let module = Module::from_binary(&engine.wasmtime, wasm).map_err(failed)?;
                weigh(engine, &module.resources_required())?;
                if link_module(engine, &module).is_ok() {
                    return module.serialize().map_err(internal);
                }
            }
            let component = Component::from_binary(&engine.wasmtime, wasm).map_err(failed)?;
            weight_of(engine, &component)?;
            link(engine, &component).map_err(|why| Error::Compile { why })?;
            component.serialize().map_err(internal)
        };
        let compiled = catch_unwind(AssertUnwindSafe(|| engine.background.run(compile)));
        compiled.unwrap_or_else(|panic| Err(Error::Internal { why: engine.caught(&*panic) }))
    }

    /// Maps an artifact and links it: about 100 µs, blocking.
    ///
    /// The file holds machine code that will run in this process, and stays mapped while the
    /// function is loaded. **Contract:** it was written by [`compile`](Self::compile) on this
    /// node, or came signed from an authenticated peer of the same build; it is kept under a
    /// name that holds [`key`](Self::key); and nobody changes it in place (replace it by
    /// rename). Never pass a file that a user could have made.
    ///
    /// # Errors
    /// The file cannot be read or is of another engine.
    pub fn load(&self, artifact: &Path) -> Result<Loaded, Error> {
        let unusable = |why: String| Error::Artifact { path: artifact.to_owned(), why };
        let unfit = |error: wasmtime::Error| unusable(format!("{error:#}"));
        let engine = &self.inner;
        let (linked, weight, code) = match Engine::kind_of(artifact).map_err(unusable)? {
            Precompiled::Module => {
                // SAFETY: by this method's contract the file is an unchanged result of `compile` on
                // an engine of the same key; wasmtime checks version and settings in its head besides.
                let module = unsafe { Module::deserialize_file(&engine.wasmtime, artifact) };
                let module = module.map_err(unfit)?;
                let weight = weigh(engine, &module.resources_required())?;
                let image = module.image_range();
                let linked = link_module(engine, &module).map_err(unusable)?;
                // SAFETY: wasmtime has mapped the file privately, and writes to its code alone, if at all.
                unsafe { memory::unmap_behind(module.text(), &image) };
                (linked, weight, module.text().len())
            }
            Precompiled::Component => {
                // SAFETY: as above.
                let component = unsafe { Component::deserialize_file(&engine.wasmtime, artifact) };
                let component = component.map_err(unfit)?;
                let weight = weight_of(engine, &component)?;
                let image = component.image_range();
                let linked = link(engine, &component).map_err(unusable)?;
                // SAFETY: as above.
                unsafe { memory::unmap_behind(component.text(), &image) };
                (linked, weight, component.text().len())
            }
        };
        let bytes = bytes_of(code);
        let inner = LoadedInner { engine: Arc::clone(engine), linked, weight, bytes };
        Ok(Loaded { inner: Arc::new(inner), instances: None })
    }
}

impl Engine {
    /// What a compiled file holds.
    fn kind_of(artifact: &Path) -> Result<Precompiled, String> {
        match wasmtime::Engine::detect_precompiled_file(artifact) {
            Ok(Some(kind)) => Ok(kind),
            Ok(None) => Err("it holds no compiled code".into()),
            Err(error) => Err(format!("{error:#}")),
        }
    }
}

impl Loaded {
    pub(crate) fn engine(&self) -> &Arc<Inner> {
        &self.inner.engine
    }

    /// The same code for another function, with instances of its own: they serve one call after the other,
    /// `uses` of them each, and `instances` at most wait for their next one. What a call leaves in memory
    /// the next one finds.
    #[must_use]
    pub fn reusing(&self, uses: u32, instances: u32) -> Self {
        let instances = Arc::new(Instances::new(uses, instances));
        self.engine().keepers.add(&instances);
        Self { inner: Arc::clone(&self.inner), instances: Some(instances) }
    }

    /// Where instances wait for their next call.
    pub(crate) fn instances(&self) -> Option<&Arc<Instances>> {
        self.instances.as_ref()
    }

    /// Whether it runs as a module alone.
    pub(crate) fn is_module(&self) -> bool {
        matches!(self.inner.linked, Linked::Module { .. })
    }

    /// Makes an instance.
    pub(crate) async fn make(&self, store: &mut Store<Host>) -> wasmtime::Result<Made> {
        Ok(match &self.inner.linked {
            Linked::Component { instance, handler, checked } => {
                Made::Component(handler_of(instance, handler, checked, store).await?)
            }
            Linked::Module { instance, exports } => {
                Made::Module(direct::make(instance, exports, store).await?)
            }
        })
    }

    /// By how many bytes an instance's memory has grown when it is made.
    pub(crate) fn grown_bytes(&self) -> u64 {
        match &self.inner.linked {
            Linked::Component { .. } => 0,
            Linked::Module { exports, .. } => exports.grown_bytes,
        }
    }

    /// Slots that one instance takes: one, unless the component has several memories or many
    /// tables.
    pub fn slots(&self) -> u32 {
        self.inner.weight
    }

    /// What it takes of memory while it is loaded, in bytes, by estimate.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes
    }

    /// Clones of it that there are, this one included: each call that runs holds one.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }
}

impl Made {
    /// Calls the handler.
    pub(crate) async fn handle(
        &self,
        store: &mut Store<Host>,
        request: Resource<HostIncomingRequest>,
        out: Resource<Outparam>,
    ) -> wasmtime::Result<()> {
        match self {
            Self::Component(handler) => handler.call_async(store, (request, out)).await,
            Self::Module(handler) => direct::handle(handler, store, &request, &out).await,
        }
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("slots", &self.inner.weight).finish_non_exhaustive()
    }
}

/// What a function takes of memory that has so much code.
const fn bytes_of(code: usize) -> u64 {
    FIXED_BYTES + code as u64 * CODE_PERCENT / 100
}

/// Makes an instance of a component; its handler.
async fn handler_of(
    instance: &InstancePre<Host>,
    handler: &ComponentExportIndex,
    checked: &OnceLock<()>,
    store: &mut Store<Host>,
) -> wasmtime::Result<Handler> {
    let made = instance.instantiate_async(&mut *store).await?;
    if checked.get().is_none() {
        let handler = made.get_typed_func(&mut *store, handler)?;
        let _ = checked.set(());
        return Ok(handler);
    }
    let found = made.get_func(&mut *store, handler);
    let found = found.ok_or_else(|| format_err!("the handler is gone"))?;
    // SAFETY: the types of its parameters were compared in an earlier instance of the same
    // component; they are the component's, and not an instance's.
    Ok(unsafe { TypedFunc::new_unchecked(found) })
}

/// The one module of a component that is valid as a whole and can run directly.
fn one_module<'w>(engine: &Inner, wasm: &'w [u8]) -> Option<direct::Main<'w>> {
    if !engine.config.direct {
        return None;
    }
    let main = direct::main_module(wasm)?;
    // What is around the module is not compiled, and all of it has to be right.
    let features = wasmparser::WasmFeatures::default();
    wasmparser::Validator::new_with_features(features).validate_all(wasm).ok()?;
    Some(main)
}

/// Resolves the imports of a module that runs directly, and finds its handler.
fn link_module(engine: &Inner, module: &Module) -> Result<Linked, String> {
    let instance = engine.modules.instantiate_pre(module);
    let instance = instance.map_err(|error| format!("{error:#}"))?;
    let exports = direct::Exports::of(module);
    let exports =
        exports.ok_or_else(|| format!("it exports no function `handle` of {INTERFACE}"))?;
    Ok(Linked::Module { instance, exports })
}

/// Resolves imports and the handler, types included.
fn link(engine: &Inner, component: &Component) -> Result<Linked, String> {
    let instance = engine.linker.instantiate_pre(component);
    let instance = instance.map_err(|error| format!("{error:#}"))?;
    let missing = |what: &str| format!("it exports no {what}{INTERFACE}");
    let interface = component.get_export_index(None, INTERFACE);
    let interface = interface.ok_or_else(|| missing(""))?;
    let handler = component.get_export_index(Some(&interface), "handle");
    let handler = handler.ok_or_else(|| missing("function `handle` in "))?;
    Ok(Linked::Component { instance, handler, checked: OnceLock::new() })
}

/// The slots an instance takes, such that the pool can never run dry of memories or tables.
fn weight_of(engine: &Inner, component: &Component) -> Result<u32, Error> {
    let Some(needs) = component.resources_required() else {
        return Err(Error::Compile { why: "it imports core modules or components".into() });
    };
    weigh(engine, &needs)
}

fn weigh(engine: &Inner, needs: &ResourcesRequired) -> Result<u32, Error> {
    let weight = needs.num_memories.max(needs.num_tables.div_ceil(TABLES_PER_SLOT)).max(1);
    let slots = engine.config.slots;
    if weight > slots {
        let what = format!("{weight} instance slots");
        return Err(Error::TooLarge { what, max: slots.into() });
    }
    Ok(weight)
}
