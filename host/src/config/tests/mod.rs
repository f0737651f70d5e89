//! Whole files: what they are read as, and what is said about those that cannot be.

mod clients;
mod cluster;
mod listeners;
mod read;
mod refused;
mod schema;
mod shown;
mod telemetry;

use proptest::prelude::*;

use super::*;

/// A mount, a plugin and a route without any setting of their own.
const BARE: &str = r#"
mounts = [{ path = "/socket" }]
routes = [{ topic = "room:*", plugin = "room" }]
plugins = { room = { library = "libroom.so" } }
"#;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(Path::new("bennu.toml"), text, Mode::Serve)
}

#[track_caller]
fn read(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{}", errors.render(false)))
}

/// Everything that is said about a text: mistakes, or else warnings.
fn diagnostics(text: &str) -> Vec<Diagnostic> {
    match parse(text) {
        Ok(config) => config.warnings,
        Err(ConfigErrors::Mistakes { diagnostics }) => diagnostics,
        Err(error) => panic!("{error}"),
    }
}

/// Checks that one thing is said, where and what: `line:column: message`.
#[track_caller]
fn check(text: &str, expected: &str) {
    let found = diagnostics(text);
    let lines: Vec<String> = found.iter().map(located).collect();
    assert_eq!(
        lines,
        [expected],
        "{}",
        Listing {
            diagnostics: &found,
            colours: false
        }
    );
}

fn located(diagnostic: &Diagnostic) -> String {
    let (line, column) = diagnostic.position();
    format!("{line}:{column}: {}", diagnostic.message())
}

/// Checks all that is shown about a text. `expected` is indented for reading.
#[track_caller]
fn check_shown(text: &str, expected: &str) {
    let indent = |line: &str| format!("    {line}").trim_end().to_owned();
    let shown: Vec<String> = diagnostics(text)
        .iter()
        .flat_map(|d| d.render(false).lines().map(indent).collect::<Vec<_>>())
        .collect();
    assert_eq!(shown.join("\n"), expected.trim_matches('\n').trim_end());
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

/// A file with the plugins `a` and `b`, the mounts `/a` and `/b`, and these routes; the first one begins in line 3.
fn with_routes(routes: &str) -> String {
    format!(
        "mounts = [{{ path = \"/a\" }}, {{ path = \"/b\", longpoll = false }}]\nplugins = {{ a.library = \"a\", b.library = \"b\" }}\n{routes}"
    )
}

/// Reads and renders all there is, in both modes.
fn survive(text: &str) {
    for mode in [Mode::Dev, Mode::Serve] {
        match Config::parse(Path::new("bennu.toml"), text, mode) {
            Ok(config) => {
                config.warnings.iter().for_each(|warning| drop(warning.render(true)));
                drop(config.settings_error("room", "a.b[0].c", "no").to_string());
            }
            Err(errors) => drop(errors.render(true)),
        }
    }
}

/// Bits of configurations, in any order.
fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "[server]\n",
        "[[mounts]]\n",
        "[[routes]]\n",
        "[plugins.room]\n",
        "[limits]\n",
        "path = ",
        "topic = ",
        "plugin = ",
        "settings = ",
        "check_origin = ",
        "longpoll = ",
        "listen = ",
        "shards = ",
        "secret_key_base = ",
        "\"\"\"",
        "'",
        "\"/a\"\n",
        "\"room\"\n",
        "\"room:*\"\n",
        "true\n",
        "0\n",
        "1_000\n",
        "-1\n",
        "nan\n",
        "1979-05-27\n",
        "{ crypto = ",
        "{ a = 1 }",
        "}\n",
        "[",
        "]\n",
        ",",
        "\"",
        "=",
        "\r\n",
        "\t",
        "é",
        "\u{1b}[31m",
        "#",
        "x.",
        "\u{0}",
        "\\u00e9",
    ]);
    prop::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        survive(&text);
    }

    #[test]
    fn no_pieces_of_configurations_make_it_panic(text in fragments()) {
        survive(&text);
    }
}

proptest! {
    // A whole file each time, so fewer.
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_cut_and_no_insertion_makes_it_panic(from in 0_usize..1_700, to in 0_usize..1_700, text in fragments()) {
        let shipped = include_str!("../../../../config/test.toml");
        let (from, to) = (shipped.floor_char_boundary(from), shipped.floor_char_boundary(to));
        survive(&format!("{}{text}{}", &shipped[..from], &shipped[to..]));
    }
}
