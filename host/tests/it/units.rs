//! What plugins and the server both depend on is compiled once: cargo needs it with the same features and settings for both.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const PLUGINS: [&str; 4] = ["echo", "ledger", "misbehave", "room"];

/// What `cargo build` with these arguments compiles, each with the name of its package; and which of that it was asked for.
fn units(args: &[&str]) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        // The list of what cargo would do is not for all versions yet.
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["build", "--locked", "--unit-graph", "-Zunstable-options"])
        .args(args);
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let graph: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let units = graph["units"].as_array().expect("a list");
    let mut known = BTreeMap::new();
    let mut of = |at| described(units, at as usize, &mut known);
    let roots = graph["roots"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_u64)
        .map(&mut of)
        .collect();
    let all = units
        .iter()
        .zip(0_u64..)
        .map(|(unit, at)| (of(at), unit["pkg_id"].to_string()));
    (all.collect(), roots)
}

/// All that distinguishes a unit from others, with all that it depends on: cargo builds equal ones once.
fn described(units: &[Value], at: usize, known: &mut BTreeMap<usize, String>) -> String {
    if let Some(text) = known.get(&at) {
        return text.clone();
    }
    let unit = &units[at];
    let needed = unit["dependencies"].as_array().expect("a list").iter();
    let needed = needed.filter_map(|needed| needed["index"].as_u64());
    let needed: BTreeSet<String> = needed.map(|index| described(units, index as usize, known)).collect();
    let own = ["pkg_id", "target", "profile", "platform", "mode", "features"].map(|key| unit[key].to_string());
    // The whole tree as text would be huge.
    let text = format!("{:x}", hash(&(own, needed)));
    known.insert(at, text.clone());
    text
}

fn hash(what: &impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn whatever_plugins_are_built_with_the_server_has_compiled_already() {
    let together: Vec<&str> = PLUGINS.iter().flat_map(|plugin| ["-p", plugin]).collect();
    let alone = PLUGINS.map(|plugin| vec!["-p", plugin]);
    for server in [
        &["-p", "bennu"][..],
        &["-p", "bennu", "--features", "bennu/tools"],
        &["--workspace"],
        &["--workspace", "--features", "bennu/tools"],
    ] {
        let (of_server, _) = units(server);
        for plugins in alone.iter().chain([&together]) {
            let (of_plugins, libraries) = units(plugins);
            assert!(of_plugins.len() > 50, "{} units", of_plugins.len());
            let is_extra = |unit: &String| !of_server.contains_key(unit) && !libraries.contains(unit);
            let twice: Vec<_> = of_plugins.iter().filter(|(unit, _)| is_extra(unit)).collect();
            assert!(
                twice.is_empty(),
                "after `cargo build {server:?}`, {plugins:?} need other builds of these: give the feature `host` of \
                 `plugin-api/Cargo.toml` what they lack\n{twice:#?}"
            );
        }
    }
}
