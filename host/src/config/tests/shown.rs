//! How mistakes are shown.

use super::*;

#[test]
fn all_mistakes_are_shown_at_once_in_file_order() {
    let text = "[[mounts]]\npath = \"/socket\"\nconnect = \"rooom\"\n\n[limits]\nmax_conections = 5\nmax_conections = 5\nidle_timeout_ms = \"60000\"\n\n[plugins.room]\nlibrary = \"libroom.so\"\n";
    check_shown(
        text,
        r#"
    error: there is no plugin `rooom`
     --> bennu.toml:3:11
      |
    3 | connect = "rooom"
      |           ^^^^^^^
      |
      = help: did you mean `room`?
    error: `[limits]` has no setting `max_conections`
     --> bennu.toml:6:1
      |
    6 | max_conections = 5
      | ^^^^^^^^^^^^^^
      |
      = help: did you mean `max_connections`?
    error: duplicate key
     --> bennu.toml:7:1
      |
    7 | max_conections = 5
      | ^^^^^^^^^^^^^^
    error: `idle_timeout_ms` must be a whole number, not a string
     --> bennu.toml:8:19
      |
    8 | idle_timeout_ms = "60000"
      |                   ^^^^^^^
      |
      = help: write 60_000 without quotes
    warning: no route and no mount uses the plugin `room`
      --> bennu.toml:10:10
       |
    10 | [plugins.room]
       |          ^^^^
       |
       = help: add a `[[routes]]`, or name it in the `connect` or `check_origin` of a mount
"#,
    );
}

#[test]
fn a_time_with_a_unit_is_shown_with_what_to_write() {
    check_shown(
        "[limits]\nidle_timeout_ms = \"10s\"\n",
        r#"
    error: `idle_timeout_ms` must be a whole number, not a string
     --> bennu.toml:2:19
      |
    2 | idle_timeout_ms = "10s"
      |                   ^^^^^
      |
      = help: write 10_000: the setting is in milliseconds
"#,
    );
    check_shown(
        "[limits]\nidle_timeout_ms = 10min # long\n",
        r#"
    error: string values must be quoted, expected literal string
     --> bennu.toml:2:19
      |
    2 | idle_timeout_ms = 10min # long
      |                   ^^^^^
      |
      = help: write 600_000: the setting is in milliseconds
"#,
    );
}

#[test]
fn a_route_that_appears_twice_is_shown_at_both_places() {
    let routes = "[[routes]]\ntopic = \"x:*\"\nplugin = \"a\"\n\n[[routes]]\nplugin = \"b\"\ntopic = \"x:*\"\n";
    check_shown(
        &with_routes(routes),
        r#"
    error: there are two routes for `x:*`
     --> bennu.toml:9:9
      |
    4 | topic = "x:*"
      |         ----- the first
    ...
    9 | topic = "x:*"
      |         ^^^^^ the second
      |
      = help: the first match in file order wins: put the narrower route first
"#,
    );
}

#[test]
fn a_syntax_error_is_shown_at_its_place() {
    check_shown(
        "[server\n[[routes]]\ntopic =\n",
        r#"
    error: unclosed table, expected `]`
     --> bennu.toml:1:8
      |
    1 | [server
      |        ^
    error: string values must be quoted, expected literal string
     --> bennu.toml:3:8
      |
    3 | topic =
      |        ^
"#,
    );
}

#[test]
fn the_secret_is_refused_and_not_shown() {
    let help = "set BENNU_SECRET_KEY_BASE in the environment, or name a file with `secret_key_base_file` in `[server]`";
    check_shown(
        "[server]\nsecret_key_base = \"hunter2\"\n",
        &format!(
            r#"
    error: the secret must not be in the configuration, which people copy and commit
     --> bennu.toml:2:1
      |
    2 | secret_key_base = "*******"
      | ^^^^^^^^^^^^^^^
      |
      = help: {help}
"#
        ),
    );
    for text in [
        "SecretKeyBase = 'hunter2'",
        "[a]\nx = [{ \"secret-key-bas\" = \"hunter2\" }]",
        "secret_key_base = \"\"\"\nhunter2",
        "secret_key_base = hunter2",
    ] {
        let errors = parse(text).expect_err("refused");
        assert!(!errors.render(false).contains("hunter2"), "{errors}");
        assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let errors = Config::read(Path::new("/nowhere/bennu.toml"), Mode::Dev).expect_err("missing");
    assert!(
        errors
            .render(false)
            .starts_with("error: cannot read /nowhere/bennu.toml: No such file"),
        "{errors}"
    );
}

#[test]
fn a_plugins_refusal_is_shown_at_its_setting() {
    let text = "[plugins.room]\nlibrary = \"l\"\n[plugins.room.settings]\nmax = 1\nlimits = { history = [1, -2] }\n\"a.b\" = { c = 1 }\n[plugins.bare]\nlibrary = \"l\"\n";
    let config = read(text);
    let place = |plugin, path| config.settings_error(plugin, path, "no").position();
    assert_eq!(place("room", "max"), (4, 7));
    assert_eq!(place("room", "limits.history"), (5, 22));
    assert_eq!(place("room", "limits.history[1]"), (5, 26));
    assert_eq!(place("room", "limits.history.1"), (5, 26));
    assert_eq!(place("room", "limits.missing"), (5, 10));
    assert_eq!(place("room", "a.b.c"), (6, 15));
    assert_eq!(place("room", ""), (3, 1));
    assert_eq!(place("bare", "max"), (7, 1));
    let unknown = "unknown field `limits`, expected `limit`";
    assert_eq!(config.settings_error("room", "limits", unknown).position(), (5, 1));
    let message = "the plugin `room` refuses its settings at `max`: must be at least 2";
    assert_eq!(
        config.settings_error("room", "max", "must be at least 2").message(),
        message
    );
}
