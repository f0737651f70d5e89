//! Mistakes and warnings, and their places.

use super::*;

#[test]
fn an_unknown_key_is_refused_in_every_section() {
    check("[servr]", "1:2: the configuration has no setting `servr`");
    check("[server]\nport = 1", "2:1: `[server]` has no setting `port`");
    check("[admin]\nlisten_on = 1", "2:1: `[admin]` has no setting `listen_on`");
    check("[log]\nlevels = 1", "2:1: `[log]` has no setting `levels`");
    check(
        "[[mounts]]\npath = \"/a\"\nlong_poll = true",
        "3:1: `[[mounts]]` has no setting `long_poll`",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nlongpoll.window = 1",
        "3:10: `longpoll` has no setting `window`",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nlongpoll.crypto.size = 1",
        "3:17: `crypto` has no setting `size`",
    );
    check(
        &format!("{BARE}[limits]\nmax = 1"),
        "6:1: `[limits]` has no setting `max`",
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    check("server = 1", "1:10: `server` must be a table, not a whole number");
    check(
        "mounts = {}",
        "1:10: `mounts` must be a list of tables: `[[mounts]]`, not a table",
    );
    check(
        "routes = [1]",
        "1:11: every item of `routes` must be a table, not a whole number",
    );
    check(
        "[plugins]\nroom = 1",
        "2:8: `[plugins.room]` must be a table, not a whole number",
    );
    check(
        "[server]\nlisten = 4000",
        "2:10: `listen` must be a string, not a whole number",
    );
    check(
        "[server]\nio_threads = \"four\"",
        "2:14: `io_threads` must be a whole number or \"auto\", not a string",
    );
    check(
        "[limits]\nmax_connections = 1.5",
        "2:19: `max_connections` must be a whole number, not a number with a fraction",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nwebsocket = \"yes\"",
        "3:13: `websocket` must be `true` or `false`, not a string",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nlongpoll = 5",
        "3:12: `longpoll` must be `true`, `false` or a table",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nheaders = [1]",
        "3:12: every item of `headers` must be a string, not a whole number",
    );
    check(
        "[[mounts]]\npath = \"/a\"\ncheck_origin = 1",
        "3:16: `check_origin` must be `true`, `false`, \"conn\", a list of origins or `{ plugin = \"NAME\" }`",
    );
}

#[test]
fn a_number_out_of_its_range_is_refused() {
    for threads in [0, 256] {
        check(
            &format!("[server]\nio_threads = {threads}"),
            "2:14: `io_threads` must be from 1 to 254",
        );
    }
    check(
        "[limits]\nmax_connections = 0",
        "2:19: `max_connections` must be from 1 to 100_000_000",
    );
    check(
        "[limits]\nmax_connections = -1",
        "2:19: `max_connections` must be from 1 to 100_000_000",
    );
    check(
        "[limits]\nidle_timeout_ms = 99999999999999999999",
        "2:19: `idle_timeout_ms` must be from 1 to 86_400_000",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nlongpoll.window_ms = 0",
        "3:22: `window_ms` must be from 1 to 3_600_000",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nlongpoll.crypto.iterations = 0",
        "3:30: `iterations` must be from 1 to 1_000_000",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nlongpoll.crypto.length = 24",
        "3:26: a key of 24 bytes fits no cipher",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nlongpoll.crypto = { cache = false, iterations = 10_001 }",
        "3:49: without `cache`, each request derives the key anew: so many iterations would hold up other clients",
    );
}

#[test]
fn words_hosts_and_addresses_are_checked() {
    check(
        "[server]\nlisten = \"localhost:4000\"",
        "2:10: `localhost:4000` is not an address with a port",
    );
    check(
        "[server]\nurl_host = \"https://a.b\"",
        "2:12: `https://a.b` is not a host name",
    );
    check(
        "[admin]\nhosts = [\"bennu.internal\", \"http://a.b\"]",
        "2:28: `http://a.b` is not a host name",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nlongpoll.crypto.digest = \"md5\"",
        "3:26: `digest` cannot be `md5`",
    );
    check(
        "[[mounts]]\npath = \"/a\"\ncheck_origin = [\"a.b\"]",
        "3:17: `a.b` is not an origin: `//` is missing before the host",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nheaders = [\"*\"]",
        "3:12: `*` is not the name of a header",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nheaders = [\"a b\"]",
        "3:12: `a b` is not the name of a header",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nsubprotocols = [\"a\", \"b, c\"]",
        "3:22: `b, c` is not the name of a subprotocol",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nserializers = [\"2.0.0\", \"3.0.0\"]",
        "3:25: there is no serializer for version `3.0.0`",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nserializers = []",
        "3:15: no client can connect here: `serializers` is empty",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nconnect_info = [\"peer\"]",
        "3:17: `connect_info` cannot hold `peer`",
    );
    check(
        "[[mounts]]\npath = \"/a\"\nconnect_static = [1]",
        "3:18: `connect_static` must be a table, not a list",
    );
    let level = diagnostics("[log]\nlevel = \"a=b=c\"");
    assert!(level[0].message().starts_with("`level` cannot be read"), "{}", level[0]);
    for (level, unknown) in [
        ("warning", "warning"),
        ("info,bennu::server=debgu", "debgu"),
        ("Fatal", "Fatal"),
    ] {
        let told = diagnostics(&format!("[log]\nlevel = \"{level}\""));
        let expected = format!("`level` cannot be read: there is no level `{unknown}`");
        assert_eq!(told[0].message(), expected);
    }
    for level in [
        "off",
        "WARN",
        "bennu",
        "info,bennu::runtime::plugin=debug",
        "bennu::server,error",
        "2",
    ] {
        Config::parse(
            Path::new("bennu.toml"),
            &format!("[log]\nlevel = \"{level}\""),
            Mode::Serve,
        )
        .expect(level);
    }
}

#[test]
fn a_mount_has_a_path_of_its_own() {
    check("[[mounts]]", "1:1: `[[mounts]]` has no `path`");
    check(
        "[[mounts]]\npath = \"socket\"",
        "2:8: the path of a mount must start with `/`",
    );
    check(
        "[[mounts]]\npath = \"\"",
        "2:8: the path of a mount must start with `/`",
    );
    check(
        "[[mounts]]\npath = \"/\"",
        "2:8: the path of a mount must not end with `/`",
    );
    check(
        "[[mounts]]\npath = \"/a//b\"",
        "2:8: the path of a mount must not have an empty part",
    );
    check(
        "[[mounts]]\npath = \"/a/../b\"",
        "2:8: the path of a mount must not have a part `.` or `..`",
    );
    check(
        "[[mounts]]\npath = \"/a b\"",
        "2:8: the path of a mount may only have letters, digits, `-`, `_`, `.`, `~` and `/`",
    );
    check(
        "[[mounts]]\npath = \"/a\"\n[[mounts]]\npath = \"/a\"",
        "4:8: there are two mounts at `/a`",
    );
    check(
        "[[mounts]]\npath = \"/a/longpoll\"\n[[mounts]]\npath = \"/a\"",
        "2:8: the mount at `/a` already serves `/a/longpoll`",
    );
    let closed = "[[mounts]]\npath = \"/a\"\nwebsocket = false\nlongpoll = false";
    check(
        closed,
        "1:1: no client can connect here: `websocket` and `longpoll` are both off",
    );
    check(
        "[[mounts]]\npath = \"/a\"\necho = true\ndialect = \"0.11\"",
        "1:1: `echo` and `dialect` cannot both be served at the path of a mount",
    );
}

#[test]
fn a_plugin_that_is_named_exists() {
    check(
        "[[mounts]]\npath = \"/a\"\nconnect = \"auth\"",
        "3:11: there is no plugin `auth`",
    );
    check(
        "[[routes]]\ntopic = \"a\"\nplugin = \"room\"",
        "3:10: there is no plugin `room`",
    );
}

#[test]
fn a_plugin_that_decides_about_origins_is_named_and_exists() {
    let mount = "[[mounts]]\npath = \"/a\"\ncheck_origin";
    check(&format!("{mount} = {{}}"), "3:16: `check_origin` has no `plugin`");
    check(
        &format!("{mount} = {{ plugin = 1 }}"),
        "3:27: `plugin` must be a string, not a whole number",
    );
    check(
        &format!("{mount} = {{ plugin = \"auth\" }}"),
        "3:27: there is no plugin `auth`",
    );
    let text = "[plugins.auth]\nlibrary = \"l\"";
    check(
        &format!("{mount} = {{ plugin = \"auth\", args = [] }}\n{text}"),
        "3:35: `check_origin` has no setting `args`",
    );
}

#[test]
fn in_serve_a_plugin_names_its_library() {
    let text = "[plugins.room]\nshards = 1\n[[routes]]\ntopic = \"a\"\nplugin = \"room\"";
    check(text, "1:1: the plugin `room` has no `library`");
    assert!(Config::parse(Path::new("bennu.toml"), text, Mode::Dev).is_ok());
}

#[test]
fn a_plugin_is_called_what_a_crate_can_be() {
    let text = "[plugins.\"My Room\"]\nlibrary = \"l\"\n[[routes]]\ntopic = \"a\"\nplugin = \"My Room\"";
    check(text, "1:10: `My Room` cannot be the name of a plugin");
}

#[track_caller]
fn check_routes(routes: &str, expected: &str) {
    check(&with_routes(&format!("routes = [\n{routes}\n]")), expected);
}

#[test]
fn a_route_has_a_pattern_and_names_that_exist() {
    let other = "{ topic = \"b\", plugin = \"b\" },\n";
    check_routes(
        &format!("{other}{{ plugin = \"a\" }}"),
        "5:1: `[[routes]]` has no `topic`",
    );
    check_routes(
        &format!("{other}{{ topic = \"\", plugin = \"a\" }}"),
        "5:11: a topic pattern may not be empty",
    );
    check_routes(
        &format!("{other}{{ topic = \"a*b\", plugin = \"a\" }}"),
        "5:11: `*` may only stand at the end of a topic pattern",
    );
    check_routes(
        &format!("{other}{{ topic = \"a\", plugin = \"a\", transports = [\"ws\"] }}"),
        "5:44: there is no transport `ws`",
    );
    check_routes(
        &format!("{other}{{ topic = \"a\", plugin = \"a\", mounts = [\"/c\"] }}"),
        "5:40: there is no mount `/c`",
    );
    check_routes(
        &format!("{other}{{ topic = \"a\", plugin = \"a\", mounts = [] }}"),
        "5:39: no client can use this route: `mounts` is empty",
    );
    let twice = format!("{other}{{ topic = \"a\", plugin = \"a\", mounts = [\"/a\", \"/a\"] }}");
    check_routes(&twice, "5:46: this list has the mount `/a` twice");
}

#[test]
fn a_route_that_says_the_same_twice_is_a_mistake() {
    check_routes(
        "{ topic = \"x:*\", plugin = \"a\" },\n{ topic = \"x:*\", plugin = \"b\" }",
        "5:11: there are two routes for `x:*`",
    );
    let narrower = "{ topic = \"x\", plugin = \"a\" },\n{ topic = \"x\", plugin = \"b\", transports = [\"longpoll\"] }";
    check_routes(narrower, "5:11: there are two routes for `x`");
}

#[test]
fn no_event_of_the_hosts_own_is_replaceable() {
    for event in ["phx_reply", "presence_state", "presence_diff"] {
        check_routes(
            &format!(
                "{{ topic = \"x\", plugin = \"a\", replaceable = [\"price\", \"{event}\"] }},\n{{ topic = \"y\", plugin = \"b\" }}"
            ),
            &format!("4:54: clients need every `{event}`: none can replace another"),
        );
    }
}

#[test]
fn a_route_for_what_an_earlier_one_leaves_is_none() {
    let rest = "[[routes]]\ntopic = \"x\"\nplugin = \"a\"\ntransports = [\"websocket\"]\n[[routes]]\ntopic = \"x\"\nplugin = \"b\"";
    assert_eq!(read(&with_routes(rest)).warnings, []);
}

#[test]
fn a_route_that_nobody_reaches_is_warned_of() {
    let shadowed = "{ topic = \"x:*\", plugin = \"a\" },\n{ topic = \"x:y:*\", plugin = \"b\" }";
    check_routes(shadowed, "5:11: no client reaches this route: `x:*` comes before it");
    // Long polling is served at `/a` only, which the second route takes.
    let together = "{ topic = \"*\", plugin = \"a\", transports = [\"websocket\"] },\n{ topic = \"x*\", plugin = \"a\", mounts = [\"/a\"] },\n{ topic = \"x\", plugin = \"b\" }";
    check_routes(
        together,
        "6:11: no client reaches this route: the routes before it take all its topics together",
    );
    let unserved = "{ topic = \"x\", plugin = \"a\", transports = [\"longpoll\"], mounts = [\"/b\"] },\n{ topic = \"y\", plugin = \"b\" }";
    check_routes(
        unserved,
        "4:11: no client reaches this route: no mount serves its transports",
    );
    check(
        &with_routes("routes = [{ topic = \"x\", plugin = \"a\" }]"),
        "2:30: no route and no mount uses the plugin `b`",
    );
}

#[test]
fn settings_that_json_cannot_hold_are_refused() {
    let text = "[[routes]]\ntopic=\"a\"\nplugin=\"p\"\nassigns = { x = [inf] }\n[plugins.p]\nlibrary=\"l\"\nsettings";
    check(
        &format!("{text} = {{}}"),
        "4:18: this number cannot be passed to a plugin",
    );
    let text = text.replace("inf", "1");
    check(
        &format!("{text} = 1"),
        "7:12: `settings` must be a table, not a whole number",
    );
    check(
        &format!("{text} = {{ a = 99999999999999999999 }}"),
        "7:18: this number does not fit into 64 bits",
    );
}

#[test]
fn keys_of_an_api_that_is_off_are_warned_of() {
    let key = "[[api.keys]]\nname = \"web\"\nallow = [\"read\"]\ntopics = [\"*\"]\n";
    check(
        key,
        "1:3: nobody can use the keys: the API is off, as it has no `listen`",
    );
}
