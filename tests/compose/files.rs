//! Whether the compose that is here takes the files.

use crate::engine::{Compose, asks};
use crate::harness::repository;
use crate::project::NODES;

const BASE: &str = "compose.yaml";
const SEVEN: &str = "compose.seven.yaml";

#[test]
fn compose_takes_the_files_alone_and_together() {
    let compose = match Compose::find() {
        Ok(compose) => compose,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let over = ["delay", "three", "seven", "chaos"].map(|name| format!("compose.{name}.yaml"));
    let [delay, _, seven, chaos] = over.each_ref();
    let mut combinations: Vec<Vec<&str>> = over.iter().map(|file| vec![BASE, file]).collect();
    combinations.push(vec![BASE]);
    combinations.push(vec![BASE, delay, seven, chaos]);
    for files in combinations {
        let mut args = Vec::new();
        for file in &files {
            args.extend(["-f", file]);
        }
        args.extend(["config", "--quiet"]);
        let mut command = compose.command("60", &args);
        command.current_dir(repository().join("deploy"));
        let taken = asks(&mut command);
        assert!(taken.is_ok(), "{files:?}: {taken:?}");
    }
}

/// Compose starts a container anew when its configuration is not the one that it was made of: nodes
/// that run must not be, when more are put beside them.
#[test]
fn more_nodes_change_nothing_of_those_there_are() {
    let compose = match Compose::find() {
        Ok(compose) => compose,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let hash = |files: &[&str], node: &str| {
        let mut args: Vec<&str> = files.iter().flat_map(|file| ["-f", file]).collect();
        let asked = match compose {
            Compose::Plugin => vec!["config".to_owned(), "--hash".to_owned(), node.to_owned()],
            Compose::Program => vec!["config".to_owned(), format!("--hash={node}")],
        };
        args.extend(asked.iter().map(String::as_str));
        asks(compose.command("60", &args).current_dir(repository().join("deploy"))).unwrap()
    };
    for node in &NODES[..5] {
        for before in [&[BASE][..], &[BASE, "compose.delay.yaml"], &[BASE, "compose.chaos.yaml"]] {
            let after = [before, &[SEVEN]].concat();
            assert_eq!(hash(before, node), hash(&after, node), "{node}: {before:?} and {SEVEN}");
        }
    }
}
