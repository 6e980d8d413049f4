//! What a deploy to many nodes costs them together.

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::compare::number;
use crate::bench::node::Nigh;
use crate::bench::rows::Found;

/// Five nodes in three regions, as in the example of the README.
const REGIONS: [&str; 5] = ["eu-west-1", "eu-west-1", "us-east-1", "us-east-1", "ap-northeast-1"];

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let nodes = Nigh::cluster(bench, place, &REGIONS)?;
    let app = place.join("app");
    std::fs::create_dir(&app)?;
    let component = bench.component("hello");
    let replicas = REGIONS.len();
    std::fs::write(
        app.join("nigh.toml"),
        format!(
            "[app]\nname = \"wide\"\n[function.wide]\ncomponent = {component:?}\n\
             placement = {{ replicas = {replicas} }}\n"
        ),
    )?;
    nodes[0].deploy(&app, "/wide")?;
    let mut compilations = 0.0;
    for node in &nodes {
        node.reaches("nigh_agent_ready", |ready| ready >= 1.0)?;
        compilations += node.metric("nigh_agent_compilations_total{result=\"ok\"}")?;
    }
    let made_of = format!("{compilations} on {replicas} nodes, 1 component");
    Ok(vec![("compilations", number(&[compilations], made_of))])
}
