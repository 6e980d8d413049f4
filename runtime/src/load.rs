//! From component to callable function: compiled once, mapped from its file, linked.

#![allow(unsafe_code, reason = "mapping a compiled file means trusting the code in it")]

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Resource, TypedFunc};
use wasmtime::{Store, format_err};
use wasmtime_wasi_http::p2::types::HostIncomingRequest;

use crate::answer::Outparam;
use crate::config::TABLES_PER_SLOT;
use crate::engine::{Engine, Inner};
use crate::host::Host;
use crate::{Error, inspect};

/// What a function exports.
const INTERFACE: &str = "wasi:http/incoming-handler@0.2.12";

/// A function's handler in one instance.
pub(crate) type Handler = TypedFunc<(Resource<HostIncomingRequest>, Resource<Outparam>), ()>;

/// A component with its imports.
struct Linked {
    instance: InstancePre<Host>,
    handler: ComponentExportIndex,
    /// Set when an instance's handler was found to have the type that is called.
    checked: OnceLock<()>,
}

/// A function that can be called: compiled, mapped, linked. A clone is the same one.
#[derive(Clone)]
pub struct Loaded {
    inner: Arc<LoadedInner>,
}

struct LoadedInner {
    engine: Arc<Inner>,
    linked: Linked,
    /// Slots that one instance takes.
    weight: u32,
}

impl Engine {
    /// Compiles a component to an artifact for [`load`](Self::load), and checks that it links.
    ///
    /// Blocks for seconds with large components, on all cores.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect), and when the code inside is not valid, an import has
    /// another type than the host's, or it asks for more memory or tables than there are.
    pub fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, Error> {
        inspect::inspect(wasm)?;
        let engine = &self.inner;
        let compiled = catch_unwind(AssertUnwindSafe(|| {
            let component = Component::from_binary(&engine.wasmtime, wasm)
                .map_err(|error| Error::Compile { why: format!("{error:#}") })?;
            weight_of(engine, &component)?;
            link(engine, &component).map_err(|why| Error::Compile { why })?;
            component.serialize().map_err(|error| Error::Internal { why: format!("{error:#}") })
        }));
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
        let engine = &self.inner;
        // SAFETY: by this method's contract the file is an unchanged result of `compile` on an
        // engine of the same key; wasmtime checks version and settings in its head besides.
        let component = unsafe { Component::deserialize_file(&engine.wasmtime, artifact) }
            .map_err(|error| unusable(format!("{error:#}")))?;
        let weight = weight_of(engine, &component)?;
        let linked = link(engine, &component).map_err(unusable)?;
        Ok(Loaded { inner: Arc::new(LoadedInner { engine: Arc::clone(engine), linked, weight }) })
    }
}

impl Loaded {
    pub(crate) fn engine(&self) -> &Arc<Inner> {
        &self.inner.engine
    }

    /// Makes an instance; its handler.
    pub(crate) async fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<Handler> {
        let Linked { instance, handler, checked } = &self.inner.linked;
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

    /// Slots that one instance takes: one, unless the component has several memories or many
    /// tables.
    pub fn slots(&self) -> u32 {
        self.inner.weight
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("slots", &self.inner.weight).finish_non_exhaustive()
    }
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
    Ok(Linked { instance, handler, checked: OnceLock::new() })
}

/// The slots an instance takes, such that the pool can never run dry of memories or tables.
fn weight_of(engine: &Inner, component: &Component) -> Result<u32, Error> {
    let Some(needs) = component.resources_required() else {
        return Err(Error::Compile { why: "it imports core modules or components".into() });
    };
    let weight = needs.num_memories.max(needs.num_tables.div_ceil(TABLES_PER_SLOT)).max(1);
    let slots = engine.config.slots;
    if weight > slots {
        let what = format!("{weight} instance slots");
        return Err(Error::TooLarge { what, max: slots.into() });
    }
    Ok(weight)
}
