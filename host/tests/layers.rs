//! The layers of the server: a file uses only layers below its own.
//!
//! The compiler keeps the packages apart (`bennu-wire` below, `bennu-tools` beside); inside `host/src` this test reads the
//! imports.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The parts of `host/src`, from the bottom to the top. A part may use those before it; a file belongs to the longest name that
/// its path begins with.
const PARTS: [&str; 92] = [
    "cargo",
    "config::amount",
    "config::words",
    "config::sensitive",
    "config::trust",
    "config::content_hash",
    "config::probe_limits",
    "config::template",
    "config::auth_settings",
    "config::diagnostic",
    "config::mistakes",
    "config::json",
    "config::shape",
    "config::api_model",
    "config::cluster_model",
    "config::telemetry_model",
    "config::plugin_model",
    "config::listening",
    "config::rates_model",
    "config::model",
    "config::origin",
    "config::reader",
    "config::complaint",
    "config::places",
    "config::secret",
    "config::api_secret",
    "config::handshake",
    "config::longpoll",
    "config::phoenix_0_11",
    "config::supabase",
    "config::around",
    "config::auth",
    "config::cluster",
    "config::telemetry",
    "config::listeners",
    "config::rates",
    "config::sections",
    "config::api",
    "config::check",
    "config::whole",
    "config::schema",
    "config",
    "runtime::id",
    "runtime::wake",
    "runtime::clock",
    "runtime::threads",
    "runtime::client_lines",
    "runtime::throttle",
    "runtime::metrics",
    "runtime::trace",
    "runtime::rate",
    "runtime::router",
    "runtime::capsule",
    "runtime::channel",
    "runtime::reach",
    "runtime::delivery",
    "runtime::refused_ids",
    "runtime::pubsub",
    "runtime::timers",
    "runtime::store",
    "runtime::plugin",
    "runtime",
    "cluster",
    "server::accept_trouble",
    "server::ambiguous",
    "server::noted",
    "server::auth",
    "server::telemetry",
    "server::api::metrics",
    "server::routing",
    "server::tls",
    "server::proxy",
    "server::transport",
    "server::closes",
    "server::limits",
    "server::changes",
    "server::question",
    "server::socket",
    "server::held",
    "server::state",
    "server::io",
    "server::endpoint",
    "server::control",
    "server::api",
    "server::usage",
    "server::metrics",
    "server::admin",
    "server",
    "cli",
    "hot",
    "",
    "main",
];

#[test]
fn no_part_of_the_server_uses_what_stands_above_it() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let own = rank(&file);
        for (line, path) in uses(&file, &text) {
            if rank(&path) > own {
                broken.push(format!("host/src, {file}, line {line}: uses {path}"));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn a_tie_that_is_put_back_is_found() {
    for (file, line) in [
        ("config::model", "use crate::runtime::plugin::probe::Step;"),
        ("config::json", "use super::reader::Section;"),
        ("config::reader", "use super::schema::schema;"),
        ("runtime::metrics", "use crate::runtime::plugin::PluginSlot;"),
        ("runtime::pubsub", "use crate::server::io::{Entry, Inbox};"),
        ("runtime::channel::topic", "use crate::runtime::plugin::shard::Shard;"),
        ("cluster::outbox", "use crate::server::io::Inbox;"),
        ("runtime::plugin::hub", "use crate::cluster::Cluster;"),
        ("server::io::http", "let app = crate::server::endpoint::app();"),
        ("server::transport::pending", "use super::super::io::Inbox;"),
    ] {
        let found = uses(file, line);
        assert!(
            found.iter().any(|(_, path)| rank(path) > rank(file)),
            "{file}: {line}: {found:?}"
        );
    }
}

#[test]
fn a_type_has_its_methods_in_its_own_folder() {
    let sources = sources();
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in &sources {
        for name in text.lines().filter_map(defined) {
            owners.entry(name.to_owned()).or_default().push(folder(file));
        }
    }
    let mut abroad = Vec::new();
    for (file, text) in &sources {
        for name in text.lines().filter_map(implemented) {
            let Some(homes) = owners.get(name) else { continue };
            if !homes.iter().any(|home| folder(file).starts_with(home.as_str())) {
                abroad.push(format!("{file}: impl {name}, which {homes:?} defines"));
            }
        }
    }
    assert!(abroad.is_empty(), "\n{}\n", abroad.join("\n"));
}

/// Where a part stands.
fn rank(path: &str) -> usize {
    let stands = |part: &&&str| part.is_empty() || path == **part || path.starts_with(&format!("{part}::"));
    let longest = PARTS
        .iter()
        .filter(stands)
        .max_by_key(|part| part.len())
        .expect("\"\" takes all");
    PARTS
        .iter()
        .position(|part| part == longest)
        .expect("it is one of them")
}

/// Every file of `host/src` by the path of its module, without its comments and its tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.strip_prefix(&root).expect("below").with_extension("");
                let module = module.to_str().expect("UTF-8").replace('/', "::");
                let module = module.trim_end_matches("::mod").to_owned();
                let text = fs::read_to_string(&path).expect("a text");
                if !is_test(&module) {
                    found.push((module, code_of(&text)));
                }
            }
        }
    }
    assert!(found.len() > 150, "{} files only", found.len());
    found
}

/// Whether a module is there for tests only.
fn is_test(module: &str) -> bool {
    let is_test = |name: &str| matches!(name, "tests" | "testing") || name.ends_with("_tests");
    module.split("::").any(is_test)
}

/// A file without its comments and without the tests at its end; its lines keep their numbers.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code
        .lines()
        .map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a file names, by `crate::…` or `super::…`, with their lines. Braces are opened.
fn uses(file: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("crate::").chain(text.match_indices("super::")) {
        if text[..start].ends_with("pub(in ") {
            continue;
        }
        let before = text[..start].chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || matches!(before, '_' | ':' | '$')) {
            continue;
        }
        let line = text[..start].lines().count();
        let mut base: Vec<&str> = file.split("::").collect();
        let mut rest = &text[start..];
        if let Some(after) = rest.strip_prefix("crate::") {
            (base, rest) = (Vec::new(), after);
        }
        while let Some(after) = rest.strip_prefix("super::") {
            base.pop();
            rest = after;
        }
        for path in opened(rest) {
            let whole: Vec<&str> = base.iter().copied().chain(path.split("::")).collect();
            found.push((line, whole.join("::")));
        }
    }
    found
}

/// The paths that a text begins with: one, or those in its braces.
fn opened(text: &str) -> Vec<String> {
    let end = text
        .find(|letter: char| !(letter.is_alphanumeric() || matches!(letter, '_' | ':')))
        .unwrap_or(text.len());
    let path = text[..end].trim_end_matches(':');
    let Some(inner) = text[end..].strip_prefix('{') else {
        return vec![path.to_owned()];
    };
    let (mut depth, mut parts, mut from) = (0, Vec::new(), 0);
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&inner[from..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    let prefix = |inner: String| {
        if path.is_empty() {
            inner
        } else {
            format!("{path}::{inner}")
        }
    };
    parts.flat_map(opened).map(prefix).collect()
}

/// The folder of a module's file: all of its path but the last name, or all of it if it has files below.
fn folder(file: &str) -> String {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src")
        .join(file.replace("::", "/"));
    if own.is_dir() {
        return file.to_owned();
    }
    file.rsplit_once("::")
        .map_or_else(String::new, |(folder, _)| folder.to_owned())
}

/// The type that a line defines.
fn defined(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub").map_or(line, |rest| {
        let rest = rest
            .strip_prefix('(')
            .and_then(|rest| Some(rest.split_once(')')?.1))
            .unwrap_or(rest);
        rest.trim_start()
    });
    let rest = ["struct ", "enum ", "union "]
        .iter()
        .find_map(|kind| line.strip_prefix(kind))?;
    name(rest)
}

/// The type that a line begins to implement, if that is for no trait.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    let rest = if rest.starts_with('<') {
        rest.split_once('>')?.1
    } else {
        rest
    };
    if rest.contains(" for ") {
        return None;
    }
    name(rest.trim_start())
}

fn name(text: &str) -> Option<&str> {
    let end = text.find(|letter: char| !(letter.is_alphanumeric() || letter == '_'))?;
    (end > 0).then(|| &text[..end])
}
