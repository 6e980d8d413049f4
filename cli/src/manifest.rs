//! `nigh.toml`: what an app is made of and what it may do.
//!
//! Only reads; nothing here opens a component. Which values are allowed is the model's to say.

use std::collections::BTreeMap;
use std::path::Path;

use nigh_model::limits::{REPLICAS_MAX, REUSE_INSTANCES_MAX, REUSE_USES_MAX};
use nigh_model::spec::{FunctionSpec, Invoke, Reuse};
use nigh_model::{AppName, Digest, FunctionName};

use crate::failure::Result;
use crate::section::{self, Bad, Section};

/// A manifest that has been read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    /// The app's name; a manifest may leave it to the command line.
    pub(crate) app: Option<AppName>,
    /// Who may call it.
    pub(crate) invoke: Invoke,
    /// Its functions by name.
    pub(crate) functions: BTreeMap<FunctionName, Function>,
}

/// A function of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function {
    /// Where its component is, relative to the manifest.
    pub(crate) component: String,
    /// Everything else; the component's digest and size are still to be filled in.
    pub(crate) spec: FunctionSpec,
}

impl Manifest {
    /// Reads a manifest; `file` is named in errors.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self> {
        let table = section::parse(file, text)?;
        read(&Section::root(&table, "a manifest")).map_err(|bad| bad.failure(file))
    }
}

fn read(root: &Section<'_>) -> std::result::Result<Manifest, Bad> {
    root.only(&["app", "function"])?;
    let mut invoke = Invoke::default();
    let app = match root.section("app")? {
        None => None,
        Some(app) => {
            app.only(&["name", "invoke"])?;
            invoke = match app.string("invoke")? {
                None | Some("open") => Invoke::Open,
                Some("closed") => Invoke::Closed,
                Some(_) => return Err(app.bad("invoke", "it is \"open\" or \"closed\"")),
            };
            let name = app.string("name")?;
            name.map(AppName::new).transpose().map_err(|why| app.bad("name", why.to_string()))?
        }
    };
    let functions = root.section("function")?.ok_or_else(|| {
        root.bad("function", "it is missing: an app needs a [function.NAME] at least")
    })?;
    let mut by_name = BTreeMap::new();
    for name in functions.keys() {
        let section = functions.section(name)?.expect("the key was just listed");
        let name = FunctionName::new(name).map_err(|why| functions.bad(name, why.to_string()))?;
        by_name.insert(name, function(&section)?);
    }
    if by_name.is_empty() {
        return Err(root.bad("function", "an app needs a [function.NAME] at least"));
    }
    Ok(Manifest { app, invoke, functions: by_name })
}

fn function(section: &Section<'_>) -> std::result::Result<Function, Bad> {
    section.only(&["component", "routes", "limits", "scale", "placement", "allow", "env"])?;
    let component = section
        .string("component")?
        .ok_or_else(|| section.bad("component", "it is missing: name the .wasm file"))?;
    if component.contains("://") || component.starts_with("oci:") {
        return Err(section.bad(
            "component",
            "references to registries and URLs are not yet supported: download it and name the file",
        ));
    }
    let mut spec = FunctionSpec::new(Digest::from_bytes([0; 32]), 0);
    for route in section.strings("routes")? {
        let route = route.parse().map_err(|why| section.bad("routes", format!("{why}")))?;
        spec.routes.push(route);
    }
    if let Some(limits) = section.section("limits")? {
        read_limits(&limits, &mut spec)?;
    }
    if let Some(scale) = section.section("scale")? {
        scale.only(&["min_warm", "idle", "reuse"])?;
        spec.scale.min_warm = scale.count("min_warm", REPLICAS_MAX)?.unwrap_or_default();
        spec.scale.idle_ms = scale.duration_ms("idle")?.unwrap_or(spec.scale.idle_ms);
        if let Some(section) = scale.section("reuse")? {
            section.only(&["uses", "instances"])?;
            let mut reuse = Reuse::default();
            reuse.uses = section.count("uses", REUSE_USES_MAX)?.unwrap_or(reuse.uses);
            reuse.instances =
                section.count("instances", REUSE_INSTANCES_MAX)?.unwrap_or(reuse.instances);
            spec.scale.reuse = Some(reuse);
        }
    }
    if let Some(placement) = section.section("placement")? {
        placement.only(&["regions", "replicas"])?;
        for region in placement.strings("regions")? {
            let region = region.to_owned().try_into();
            let region = region.map_err(|why: String| placement.bad("regions", why))?;
            spec.placement.regions.push(region);
        }
        spec.placement.replicas = placement.count("replicas", REPLICAS_MAX)?.unwrap_or_default();
    }
    if let Some(allow) = section.section("allow")? {
        allow.only(&["outbound"])?;
        for rule in allow.strings("outbound")? {
            let rule = rule.to_owned().try_into();
            spec.outbound.push(rule.map_err(|why: String| allow.bad("outbound", why))?);
        }
    }
    if let Some(env) = section.section("env")? {
        for name in env.keys() {
            let value = env.string(name)?.unwrap_or_default();
            spec.env.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(Function { component: component.to_owned(), spec })
}

fn read_limits(section: &Section<'_>, spec: &mut FunctionSpec) -> std::result::Result<(), Bad> {
    section.only(&["timeout", "memory", "cpu", "concurrency", "body"])?;
    let limits = &mut spec.limits;
    limits.timeout_ms = section.duration_ms("timeout")?.unwrap_or(limits.timeout_ms);
    limits.cpu_ms = section.duration_ms("cpu")?.unwrap_or(limits.cpu_ms);
    limits.memory_bytes = section.size("memory")?.unwrap_or(limits.memory_bytes);
    limits.body_bytes = section.size("body")?.unwrap_or(limits.body_bytes);
    limits.concurrency = section.count("concurrency", u32::MAX)?.unwrap_or(limits.concurrency);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse(Path::new("nigh.toml"), text)
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    const FULL: &str = r#"
        [app]
        name = "shop"
        invoke = "closed"
        [function.checkout]
        component = "checkout.wasm"
        routes    = ["/checkout/...", "shop.example.com/..."]
        limits    = { timeout = "5s", memory = "64MiB", cpu = "50ms", concurrency = 100, body = "1MB" }
        scale     = { min_warm = 1, idle = "10m", reuse = { uses = 50 } }
        placement = { regions = ["eu-*"], replicas = 2 }
        allow     = { outbound = ["https://api.example.com"] }
        env       = { LOG = "info" }
    "#;

    #[test]
    fn every_key_is_read() {
        let manifest = parse(FULL).unwrap();
        assert_eq!(manifest.app.unwrap().as_str(), "shop");
        assert_eq!(manifest.invoke, Invoke::Closed);
        let function = &manifest.functions["checkout"];
        assert_eq!(function.component, "checkout.wasm");
        let spec = &function.spec;
        assert_eq!(spec.routes.len(), 2);
        assert_eq!((spec.limits.timeout_ms, spec.limits.cpu_ms), (5_000, 50));
        assert_eq!((spec.limits.memory_bytes, spec.limits.body_bytes), (64 << 20, 1_000_000));
        assert_eq!(spec.limits.concurrency, 100);
        assert_eq!((spec.scale.min_warm, spec.scale.idle_ms), (1, 600_000));
        assert_eq!(spec.scale.reuse, Some(Reuse { uses: 50, ..Reuse::default() }));
        assert_eq!(spec.placement.regions[0].as_str(), "eu-*");
        assert_eq!(spec.placement.replicas, 2);
        assert_eq!(String::from(spec.outbound[0].clone()), "https://api.example.com");
        assert_eq!(spec.env["LOG"], "info");
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let manifest = parse("[function.a]\ncomponent = \"a.wasm\"").unwrap();
        assert_eq!((manifest.app, manifest.invoke), (None, Invoke::Open));
        let spec = &manifest.functions["a"].spec;
        assert_eq!(*spec, FunctionSpec::new(Digest::from_bytes([0; 32]), 0));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let text = FULL.replace("timeout =", "timeot =");
        assert_eq!(
            error(&text),
            "error: nigh.toml: `function.checkout.limits.timeot` is no key of a manifest\n  \
             try: did you mean `timeout`?"
        );
        for (right, wrong) in [
            ("[app]", "[ap]"),
            ("name =", "nam ="),
            ("component =", "componant ="),
            ("idle", "idel"),
        ] {
            let said = error(&FULL.replacen(right, wrong, 1));
            assert!(said.contains("is no key of a manifest") && said.contains("mean"), "{said}");
        }
    }

    #[test]
    fn every_error_names_file_key_and_reason() {
        let cases = [
            ("\"5s\"", "5", "`function.checkout.limits.timeout`", "is a number"),
            ("\"5s\"", "\"5 sec\"", "`function.checkout.limits.timeout`", "ms, s, m, h or d"),
            ("\"64MiB\"", "\"64Mi\"", "`function.checkout.limits.memory`", "KiB"),
            ("= 100", "= -1", "`function.checkout.limits.concurrency`", "whole number"),
            ("= 2 }", "= 2000 }", "`function.checkout.placement.replicas`", "1000"),
            ("\"shop\"", "\"Shop\"", "`app.name`", "a-z"),
            ("\"closed\"", "\"shut\"", "`app.invoke`", "open"),
            ("\"/checkout/...\"", "\"/a/.../b\"", "`function.checkout.routes`", "route"),
            ("[\"eu-*\"]", "\"eu-*\"", "`function.checkout.placement.regions`", "list"),
            ("[\"eu-*\"]", "[\"EU\"]", "`function.checkout.placement.regions`", "region"),
            ("https://api", "api", "`function.checkout.allow.outbound`", "scheme"),
            ("\"checkout.wasm\"", "\"https://a/b.wasm\"", "component`", "not yet supported"),
            ("= \"info\"", "= 1", "`function.checkout.env.LOG`", "text"),
            ("[function.checkout]", "[function.\"Check out\"]", "`function.Check out`", "a-z"),
        ];
        for (right, wrong, key, reason) in cases {
            let said = error(&FULL.replacen(right, wrong, 1));
            assert!(
                said.contains("nigh.toml") && said.contains(key) && said.contains(reason),
                "{said}"
            );
        }
        assert!(error("[app]\nname = \"a\"").contains("`function`"));
        assert!(error("[app]\nname = \"a\"\n[function]").contains("`function`"));
        assert!(error("[function.a]").contains("`function.a.component`"));
        assert!(error("[app]\nname = ").contains("line 2 is not TOML"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\[(app|function\\.a)\\]\n|name|component|limits|env|=|\\{|\\}|\"[a-z0-9:/.]{0,6}\"|[0-9]|,|\n){0,24}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_duration_means_the_same_in_every_unit(seconds in 1u64..3_600) {
            let with = |unit: &str| {
                let text = FULL.replace("\"5s\"", &format!("\"{unit}\""));
                parse(&text).unwrap().functions["checkout"].spec.limits.timeout_ms
            };
            prop_assert_eq!(with(&format!("{seconds}s")), seconds * 1_000);
            prop_assert_eq!(with(&format!("{}ms", seconds * 1_000)), seconds * 1_000);
        }
    }
}
