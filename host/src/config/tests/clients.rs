//! What is refused of the settings that say how clients speak and who they are.

use super::*;

#[test]
fn settings_of_supabases_dialect_are_checked() {
    let mount = |settings: &str| format!("[[mounts]]\npath = \"/realtime/v1\"\n{settings}");
    check(
        &mount("max_broadcast_messages = 1"),
        "3:26: `max_broadcast_messages` belongs to another dialect",
    );
    check(
        &mount("dialect = \"supabase\"\nmax_broadcast_messages = 0"),
        "4:26: `max_broadcast_messages` must be from 1 to 100_000_000",
    );
    check(
        &mount("dialect = \"supabase\"\norigins = []"),
        "4:11: `origins` belongs to another dialect",
    );
    check(
        &mount("dialect = \"supabase\"\nserializers = [\"3.0.0\"]"),
        "4:16: there is no serializer for version `3.0.0`",
    );
    let auth = |settings: &str| {
        mount(&format!(
            "auth = {{ jwt = {{ algorithms = [\"HS256\"] }}, {settings} }}"
        ))
    };
    check(&auth("from = [\"join.\"]"), "3:52: `join.` is no place for a token");
    check(
        &auth("same_client = false, socket_id = \"{sub}\""),
        "3:77: `socket_id` names one client, and with `same_client = false` a connection may become that of another",
    );
}

#[test]
fn settings_of_the_phoenix_0_11_dialect_are_checked() {
    let mount = |settings: &str| format!("[[mounts]]\npath = \"/ws\"\n{settings}");
    let phoenix_0_11 = |settings: &str| mount(&format!("dialect = \"0.11\"\n{settings}"));
    check(&mount("dialect = \"0.12\""), "3:11: `dialect` cannot be `0.12`");
    check(
        &mount("dialect = 0.11"),
        "3:11: `dialect` must be a string, not a number with a fraction",
    );
    check(
        &mount("dialect = \"0.12\"\norigins = []"),
        "3:11: `dialect` cannot be `0.12`",
    );
    for (key, value) in [
        ("origins", "[]"),
        ("longpoller_window_ms", "1"),
        ("longpoller_pubsub_timeout_ms", "1"),
        ("longpoller_crypto", "{}"),
    ] {
        check(
            &mount(&format!("{key} = {value}")),
            &format!("3:{}: `{key}` belongs to another dialect", key.len() + 4),
        );
    }
    check(
        &phoenix_0_11("origins = [\"example.com\"]"),
        "4:12: `example.com` is not an origin: `//` is missing before the host",
    );
    check(
        &phoenix_0_11("origins = \"//example.com\""),
        "4:11: `origins` must be a list of strings, not a string",
    );
    check(
        &phoenix_0_11("longpoller_window_ms = 0"),
        "4:24: `longpoller_window_ms` must be from 1 to 3_600_000",
    );
    check(
        &phoenix_0_11("longpoller_pubsub_timeout_ms = \"1\""),
        "4:32: `longpoller_pubsub_timeout_ms` must be a whole number, not a string",
    );
    check(
        &phoenix_0_11("longpoller_crypto = { length = 24 }"),
        "4:32: a key of 24 bytes fits no cipher",
    );
    check(
        &phoenix_0_11("longpoller_crypto = { size = 1 }"),
        "4:23: `longpoller_crypto` has no setting `size`",
    );
    check(
        &phoenix_0_11("longpoll = false\nlongpoller_window_ms = 1"),
        "5:24: `longpoller_window_ms` has no effect: `longpoll` is off",
    );
}

#[test]
fn settings_of_auth_are_checked() {
    let auth = |settings: &str| format!("[[mounts]]\npath = \"/a\"\n[mounts.auth]\n{settings}");
    let jwt = |settings: &str| auth(&format!("jwt = {{ {settings} }}"));
    let good = "jwt = { algorithms = [\"HS256\"], secret_file = \"s\" }\n";
    check(
        &auth(""),
        "3:1: `[mounts.auth]` takes no token: it has neither `jwt` nor `phoenix_token`",
    );
    check(
        &auth(&format!("{good}requires = true")),
        "5:1: `[mounts.auth]` has no setting `requires`",
    );
    check(&jwt("secret_file = \"s\""), "4:7: `jwt` names no algorithm");
    check(&jwt("algorithms = []"), "4:22: `jwt` names no algorithm");
    check(
        &jwt("algorithms = [\"none\"]"),
        "4:23: a token cannot be signed with `none`",
    );
    check(
        &jwt("algorithms = [\"HS25\"]"),
        "4:23: a token cannot be signed with `HS25`",
    );
    check(
        &jwt("algorithms = [\"HS256\"], secret_file = \"s\", keys_file = \"k\""),
        "4:64: `jwt` has both `secret_file` and `keys_file`",
    );
    check(
        &jwt("algorithms = [\"RS256\"], secret_file = \"s\""),
        "4:23: `RS256` needs public keys, not a secret",
    );
    check(
        &jwt("algorithms = [\"HS256\"], secret_file = \"s\", audience = []"),
        "4:63: `audience` is empty",
    );
    check(
        &jwt("algorithms = [\"HS256\"], secret = \"hunter2\""),
        "4:33: `jwt` has no setting `secret`",
    );
    check(
        &auth("phoenix_token = { secret_key_base_file = \"s\" }"),
        "4:17: `phoenix_token` has no `salt`",
    );
    check(
        &auth("phoenix_token = { salt = \"s\", max_age_s = 0 }"),
        "4:43: `max_age_s` must be from 1 to 3_162_240_000",
    );
    check(
        &auth(&format!("{good}from = [\"cookie.token\"]")),
        "5:9: `cookie.token` is no place for a token",
    );
    check(
        &auth(&format!("{good}from = []")),
        "5:8: no client can show its token: `from` is empty",
    );
    check(
        &auth(&format!("{good}socket_id = \"user\"")),
        "5:13: `socket_id` cannot be `user`: it names no claim, so all clients would get the same id",
    );
    check(
        &auth(&format!("{good}on_expiry = \"stay\"")),
        "5:13: `on_expiry` cannot be `stay`",
    );
}

/// Only the environment and files hold secrets, so all else may be shown.
#[test]
fn a_mistake_in_auth_is_shown_with_its_line_and_a_secret_there_is_not() {
    check_shown(
        "[[mounts]]\npath = \"/a\"\n[mounts.auth]\njwt = { algorithms = [\"HS257\"], secret_file = \"s\" }\n",
        r#"
    error: a token cannot be signed with `HS257`
     --> bennu.toml:4:23
      |
    4 | jwt = { algorithms = ["HS257"], secret_file = "s" }
      |                       ^^^^^^^
      |
      = help: did you mean `HS256`?
"#,
    );
    let secret = "[[mounts]]\npath = \"/a\"\n[mounts.auth]\njwt = { algorithms = [\"HS256\"], secret = \"hunter2\" }\n";
    let shown: String = diagnostics(secret).iter().map(|found| found.render(false)).collect();
    assert!(
        shown.contains("has no setting `secret`") && !shown.contains("hunter2"),
        "{shown}"
    );
}
