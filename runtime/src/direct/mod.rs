//! A component that is no more than one module and the host's functions: that module alone, with the
//! host's functions called directly.
//!
//! `wit-component` makes such components of most languages' modules. As a component an instance is
//! four (the module, its shim, its fixup, the component), and each call of the host goes through
//! wasmtime's general canonical ABI; directly it is one, and a call of the host one function. What a
//! guest sees is the same, and so is what keeps guests apart: memory, tables and handles are an
//! instance's own. [`read`] says whether a component is of this kind; one that is not, or that needs a
//! function that is not here (files, sockets, calls to others), runs as a component.

#![allow(unsafe_code, reason = "types are compared once, at load")]

mod abi;
mod ahead;
mod answers;
mod errors;
mod fields;
mod io;
mod read;
mod request;
mod system;

use wasmtime::component::Resource;
use wasmtime::{
    Engine, Extern, ExternType, Linker, Module, ModuleExport, Result, Store, TypedFunc, ValType,
    format_err,
};
use wasmtime_wasi_http::p2::types::HostIncomingRequest;

pub(crate) use abi::Reach;
pub(crate) use ahead::grown;
pub(crate) use read::{Main, main_module};

use crate::answer::Outparam;
use crate::host::Host;
use crate::inspect;
use abi::Guest;

/// The last version of WASI 0.2 whose functions are these; a component that names a later one runs
/// as a component.
const PATCH_MAX: u32 = 12;

/// A function's handler: the handles of the request and of where its answer goes.
pub(crate) type Handler = TypedFunc<(u32, u32), ()>;

/// What an asynchronous function of the host returns.
type Later<'a, T> = Box<dyn Future<Output = Result<T>> + Send + 'a>;

fn later<'a, T>(work: impl Future<Output = Result<T>> + Send + 'a) -> Later<'a, T> {
    Box::new(work)
}

/// All that a module can import, in each version.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    for patch in 0..=PATCH_MAX {
        let version = &format!("0.2.{patch}");
        let types = &format!("wasi:http/types@{version}");
        fields::link(&mut linker, types)?;
        request::link(&mut linker, types)?;
        answers::link(&mut linker, types)?;
        io::link(&mut linker, version)?;
        system::link(&mut linker, version)?;
    }
    Ok(linker)
}

/// What of a module the host uses.
pub(crate) struct Exports {
    handler: ModuleExport,
    memory: Option<ModuleExport>,
    realloc: Option<ModuleExport>,
    /// By how many bytes the memory has grown before any call.
    pub(crate) grown_bytes: u64,
}

impl Exports {
    /// Finds them; none: there is no handler, or one of them has another type.
    pub(crate) fn of(module: &Module) -> Option<Self> {
        let i32s = |types: &mut dyn Iterator<Item = ValType>, count: usize| {
            types.map(|ty| ty.is_i32()).collect::<Vec<_>>() == vec![true; count]
        };
        let is_func = |name: &str, parameters: usize, results: usize| match module.get_export(name)
        {
            None => Some(None),
            Some(ExternType::Func(ty))
                if i32s(&mut ty.params(), parameters) && i32s(&mut ty.results(), results) =>
            {
                Some(module.get_export_index(name))
            }
            Some(_) => None,
        };
        let mut names = module.exports().map(|export| export.name());
        let handler = names.find(|name| {
            let interface = name.strip_suffix("#handle");
            interface.is_some_and(|interface| inspect::is_0_2(interface, inspect::HANDLER))
        })?;
        let memory = module.get_export_index(read::MEMORY);
        let memory = memory.filter(|_| {
            module.get_export(read::MEMORY).is_some_and(|export| export.memory().is_some())
        });
        let realloc = is_func(read::REALLOC, 4, 1)?;
        let grown_bytes = ahead::grown_bytes(module);
        Some(Self { handler: is_func(handler, 2, 0)??, memory, realloc, grown_bytes })
    }
}

/// Makes an instance; its handler.
pub(crate) async fn make(
    module: &wasmtime::InstancePre<Host>,
    exports: &Exports,
    store: &mut Store<Host>,
) -> Result<Handler> {
    let instance = module.instantiate_async(&mut *store).await?;
    let mut export = |export: &ModuleExport| instance.get_module_export(&mut *store, export);
    let memory = exports.memory.as_ref().and_then(&mut export).and_then(Extern::into_memory);
    let realloc = exports.realloc.as_ref().and_then(&mut export).and_then(Extern::into_func);
    let handler = export(&exports.handler).and_then(Extern::into_func);
    let handler = handler.ok_or_else(|| format_err!("the handler is gone"))?;
    store.data_mut().reach = Reach::new(memory, realloc);
    // SAFETY: its type was compared at load.
    Ok(unsafe { Handler::new_unchecked(&*store, handler) })
}

/// Calls the handler.
pub(crate) async fn handle(
    handler: &Handler,
    store: &mut Store<Host>,
    request: &Resource<HostIncomingRequest>,
    out: &Resource<Outparam>,
) -> Result<()> {
    handler.call_async(store, (abi::handle(request), abi::handle(out))).await
}

/// Lets go of a resource.
fn let_go<T: Send + 'static>(mut guest: Guest<'_>, handle: u32) -> Result<()> {
    abi::host(&mut guest)?.table.delete(abi::own::<T>(handle))?;
    Ok(())
}
