//! Is this a component that can be a function? Answered from its outer sections alone.
//!
//! Nested modules are skipped, not read: 100 MiB take no longer than 100 KiB. Whether the code
//! inside is valid, and every function of an import has the right type, is for the compiler.

use wasmparser::{Chunk, ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload};

use crate::Error;

/// What a function is called through.
pub(crate) const HANDLER: &str = "wasi:http/incoming-handler";

/// The interfaces of WASI 0.2, all of them linked.
pub(crate) const OFFERED: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// What a component needs and offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentInfo {
    /// Its imports, as named in it.
    pub imports: Vec<String>,
    /// Its exports, as named in it.
    pub exports: Vec<String>,
}

pub(crate) fn inspect(wasm: &[u8]) -> Result<ComponentInfo, Error> {
    if !Parser::is_component(wasm) {
        return Err(no_component(wasm));
    }
    let (info, has_handler) = read(wasm)?;
    if !has_handler {
        return Err(Error::NoHandler { exports: info.exports });
    }
    Ok(info)
}

/// Reads the outer sections.
fn read(wasm: &[u8]) -> Result<(ComponentInfo, bool), Error> {
    let mut info = ComponentInfo::default();
    let mut has_handler = false;
    let mut parser = Parser::new(0);
    let mut offset = 0;
    loop {
        let (payload, consumed) = match parser.parse(&wasm[offset..], true).map_err(invalid)? {
            Chunk::Parsed { payload, consumed } => (payload, consumed),
            Chunk::NeedMoreData(_) => return Err(truncated(wasm.len())),
        };
        offset += consumed;
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => return Err(Error::CoreModule),
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. } => {
                if unchecked_range.end > wasm.len() {
                    return Err(truncated(wasm.len()));
                }
                offset = unchecked_range.end;
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import.map_err(invalid)?;
                    offered(import.name.name, import.ty)?;
                    info.imports.push(import.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    has_handler |= export.kind == ComponentExternalKind::Instance
                        && is_0_2(export.name.name, HANDLER);
                    info.exports.push(export.name.name.to_owned());
                }
            }
            Payload::UnknownSection { id, .. } => {
                return Err(Error::Invalid { why: format!("unknown section {id}") });
            }
            Payload::End(_) => return Ok((info, has_handler)),
            _ => {}
        }
    }
}

/// Whether the host has this import.
fn offered(name: &str, ty: ComponentTypeRef) -> Result<(), Error> {
    // Types carry no code; a component that imports one names an interface for it as well.
    if matches!(ty, ComponentTypeRef::Type(_)) {
        return Ok(());
    }
    let lacking =
        |why: &str| Err(Error::UnknownImport { name: name.to_owned(), why: why.to_owned() });
    if OFFERED.iter().any(|interface| is_0_2(name, interface)) {
        return Ok(());
    }
    let interface = name.split_once('@').map_or(name, |(interface, _)| interface);
    if OFFERED.contains(&interface) {
        return lacking("it has this interface in version 0.2");
    }
    lacking("it offers WASI 0.2 (wasi:cli, clocks, filesystem, http, io, random, sockets)")
}

/// Whether a name is this interface in a stable version 0.2.
pub(crate) fn is_0_2(name: &str, interface: &str) -> bool {
    let version = name.strip_prefix(interface).and_then(|rest| rest.strip_prefix('@'));
    match version {
        Some("0.2") => true,
        Some(version) => version
            .strip_prefix("0.2.")
            .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit())),
        None => false,
    }
}

fn no_component(wasm: &[u8]) -> Error {
    if wasm.is_empty() {
        return Error::NotWasm { why: "the file is empty".into() };
    }
    if Parser::is_core_wasm(wasm) {
        return Error::CoreModule;
    }
    if wasm.starts_with(b"\0asm") {
        return if wasm.len() < 8 {
            truncated(wasm.len())
        } else {
            Error::Invalid { why: "its format version is not known".into() }
        };
    }
    let start = wasm.trim_ascii_start();
    let why = if start.starts_with(b"(component") || start.starts_with(b"(module") {
        "this is the text format; `wasm-tools parse` makes a binary of it"
    } else {
        "it does not begin with \\0asm"
    };
    Error::NotWasm { why: why.into() }
}

fn truncated(bytes: usize) -> Error {
    Error::Invalid { why: format!("it ends in the middle, after {bytes} bytes") }
}

fn invalid(error: wasmparser::BinaryReaderError) -> Error {
    Error::Invalid { why: format!("{} at byte {}", error.message(), error.offset()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    const HANDLER_EXPORT: &str =
        r#"(instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i))"#;

    #[test]
    fn a_component_with_a_handler_is_accepted() {
        let wasm = component(&format!(
            r#"(component (import "wasi:io/streams@0.2.6" (instance))
                (core module) (component) {HANDLER_EXPORT})"#
        ));
        let info = inspect(&wasm).unwrap();
        assert_eq!(info.imports, ["wasi:io/streams@0.2.6"]);
        assert_eq!(info.exports, ["wasi:http/incoming-handler@0.2.0"]);
    }

    #[test]
    fn what_is_no_component_is_told_apart() {
        let said = |wasm: &[u8]| inspect(wasm).unwrap_err();
        assert!(matches!(said(b""), Error::NotWasm { .. }));
        assert!(matches!(said(b"#!/bin/sh"), Error::NotWasm { .. }));
        assert!(said(b"  (component)").to_string().contains("text format"));
        assert!(matches!(said(b"\0as"), Error::NotWasm { .. }));
        assert!(matches!(said(b"\0asm\x0d"), Error::Invalid { .. }));
        assert!(matches!(said(b"\0asm\x63\0\0\0"), Error::Invalid { .. }));
        let module = said(&component("(module)"));
        assert!(matches!(module, Error::CoreModule));
        assert!(module.to_string().contains("wasm32-wasip2"), "{module}");
    }

    #[test]
    fn every_truncation_is_an_error() {
        // Without names, which would make a custom section at the end that none would miss.
        let wasm = component(
            r#"(component (core module (func (export "f"))) (instance)
                (export "wasi:http/incoming-handler@0.2.0" (instance 0)))"#,
        );
        inspect(&wasm).unwrap();
        for length in 0..wasm.len() {
            assert!(inspect(&wasm[..length]).is_err(), "{length} of {}", wasm.len());
        }
    }

    #[test]
    fn no_byte_makes_it_panic() {
        let wasm = component(&format!(
            r#"(component (import "wasi:io/poll@0.2.0" (instance)) (core module) {HANDLER_EXPORT})"#
        ));
        for at in 0..wasm.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut broken = wasm.clone();
                broken[at] = value;
                let _ = inspect(&broken);
            }
        }
    }

    #[test]
    fn a_missing_handler_and_an_unknown_import_are_named() {
        let command =
            component(r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#);
        let error = inspect(&command).unwrap_err();
        assert!(error.to_string().contains("wasi:cli/run@0.2.0"), "{error}");

        for import in ["acme:db/query@1.0.0", "wasi:http/types@0.3.0", "wasi:nn/graph@0.2.0", "f"] {
            let wasm = component(&format!(
                r#"(component (import "{import}" (instance)) {HANDLER_EXPORT})"#
            ));
            let error = inspect(&wasm).unwrap_err();
            assert!(
                matches!(&error, Error::UnknownImport { name, .. } if name == import),
                "{error}"
            );
        }
    }

    #[test]
    fn only_stable_0_2_versions_count() {
        for (name, fits) in [
            ("wasi:http/types@0.2.0", true),
            ("wasi:http/types@0.2.99", true),
            ("wasi:http/types@0.2", true),
            ("wasi:http/types@0.2.", false),
            ("wasi:http/types@0.2.0-rc-2023-11-10", false),
            ("wasi:http/types@0.20.0", false),
            ("wasi:http/types", false),
        ] {
            assert_eq!(is_0_2(name, "wasi:http/types"), fits, "{name}");
        }
    }
}
