//! Whether the compose that is here takes the files.

use crate::engine::{Compose, asks};
use crate::harness::repository;

const BASE: &str = "compose.yaml";

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
