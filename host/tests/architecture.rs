//! The maps are true: every path that a page names is there.

use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn every_path_in_the_architecture_page_exists() {
    check("host/ARCHITECTURE.md", 20);
}

#[test]
fn every_path_in_the_readme_exists() {
    check("README.md", 8);
}

#[test]
fn every_path_in_the_page_of_the_benchmarks_exists() {
    check("host/benches/README.md", 8);
}

#[test]
fn every_path_in_the_page_for_contributors_exists() {
    check("host/docs/contributing.md", 20);
}

#[test]
fn every_name_that_a_page_places_in_a_file_is_there() {
    let pages = [
        "host/ARCHITECTURE.md",
        "host/docs/contributing.md",
        "host/docs/phoenix-0.11.md",
    ];
    let mut found = 0;
    for page in pages {
        let text = read(page).split_whitespace().collect::<Vec<_>>().join(" ");
        for (before, after) in text
            .match_indices("` in `")
            .map(|(at, _)| (&text[..at], &text[at + 6..]))
        {
            let name = before.rsplit('`').next().expect("a name");
            let path = after.split('`').next().expect("a path");
            if !looks_like_a_path(path) || !path.ends_with(".rs") {
                continue;
            }
            let name = name.rsplit("::").next().expect("a name");
            let kinds = ["const", "enum", "fn", "struct", "trait"].map(|kind| format!("{kind} {name}"));
            let starts = |line: &str, kind: &String| {
                let rest = line.split_once(kind.as_str()).map(|(_, rest)| rest);
                rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
            };
            let is_there = read(path)
                .lines()
                .any(|line| kinds.iter().any(|kind| starts(line, kind)));
            assert!(is_there, "{page}: {path} does not define `{name}`");
            found += 1;
        }
    }
    assert!(found >= 10, "{found} names only");
}

#[test]
fn every_path_in_the_page_about_authentication_exists() {
    check("host/docs/authentication.md", 1);
}

#[test]
fn every_place_and_test_in_the_page_about_phoenix_0_11_exists() {
    check("host/docs/phoenix-0.11.md", 80);
    let text = read("host/docs/phoenix-0.11.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").collect())
        .filter(|cells: &Vec<&str>| cells[0] != "Phoenix 0.11")
        .collect();
    assert!(rows.len() >= 28, "{} rows only", rows.len());
    for cells in rows {
        assert_eq!(cells.len(), 3, "{cells:?}");
        check_names(cells[1], |text, name| {
            let forms = ["{name}(", "fn {name}<", "trait {name}:"].map(|form| form.replace("{name}", name));
            forms.iter().any(|form| text.contains(form))
        });
        let shown = check_names(cells[2], has_test);
        assert!(shown > 0, "nothing shows it: {}", cells[2]);
    }
}

/// Each name behind a path in a cell is in that file. Returns how many names and transcripts there are.
fn check_names(cell: &str, is_there: impl Fn(&str, &str) -> bool) -> usize {
    let (mut file, mut found) = (None, 0);
    for span in code_spans(cell) {
        if looks_like_a_path(span) {
            file = Some((span, read(span)));
            found += usize::from(span.ends_with(".txt"));
        } else if let Some((path, text)) = &file {
            assert!(is_there(text, span), "{path} has no `{span}`");
            found += 1;
        }
    }
    found
}

/// Whether a function of this name has the attribute of a test right before it.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let mut before = lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
        line.trim_start_matches("async ").starts_with(&format!("fn {name}("))
            && before.any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn the_plugin_in_the_readme_is_the_echo_plugin() {
    let readme = read("README.md");
    let plugin = read("plugins/echo/src/lib.rs");
    assert!(readme.contains(&format!("```rust\n{plugin}```")));
}

#[test]
fn the_plugins_to_copy_and_to_show_are_short() {
    for (plugin, most) in [("plugins/echo/src/lib.rs", 15), ("plugins/room/src/lib.rs", 46)] {
        let source = read(plugin);
        let (code, _tests) = source.split_once("#[cfg(test)]").expect("it has tests");
        let lines = code.lines().map(str::trim);
        let count = lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        assert!(count <= most, "{plugin} has {count} lines of code");
    }
}

fn read(page: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(page)).expect("the page is there")
}

/// Fails for the paths in `page` that lead nowhere, and if there are fewer than `at_least`: then it was misread.
fn check(page: &str, at_least: usize) {
    let text = read(page);
    let root = Path::new(ROOT);
    let folder = root.join(page).parent().expect("a folder").to_owned();
    // A path in code starts at the root; the target of a link starts at the page's own folder.
    let in_code = code_spans(&text).map(|path| (root, path));
    let linked = links(&text).map(|path| (&*folder, path));
    let paths: Vec<_> = in_code
        .chain(linked)
        .filter(|(_, path)| looks_like_a_path(path))
        .collect();
    let missing: Vec<_> = { paths.iter() }
        .filter(|(from, path)| !from.join(path).exists())
        .collect();
    assert!(missing.is_empty(), "{page} names what is not there: {missing:?}");
    assert!(paths.len() >= at_least, "{page} names {} paths only", paths.len());
}

/// What stands between single backticks; blocks of code are left out.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

/// The targets of links; blocks of code are left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|prose| prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()))
}

/// `host/src/lib.rs` and `plugins/room`, but no `/socket`, no `room:*`, no `bennu dev` and no web address.
fn looks_like_a_path(span: &str) -> bool {
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    plain && span.contains('/') && !span.starts_with('/') && !span.starts_with("target/")
}
