//! What files are read as.

use std::time::Duration;

use bennu_wire::dialect::Dialect;
use bennu_wire::serializer::{SUPABASE, Serializers};

use super::*;

#[test]
fn the_shipped_file_says_what_goes_without_saying() {
    for mode in [Mode::Dev, Mode::Serve] {
        let written = Config::read(&shipped("bennu.toml"), mode).expect("bennu.toml");
        let unwritten = Config::parse(&shipped("bennu.toml"), BARE, mode).expect("no setting");
        assert_eq!(written.warnings, []);
        assert!(written.server.names_listen && !unwritten.server.names_listen);
        let server = Server {
            names_listen: false,
            ..written.server
        };
        assert_eq!(server, unwritten.server);
        assert_eq!(written.admin, unwritten.admin);
        assert_eq!(written.api, unwritten.api);
        assert_eq!(written.log, unwritten.log);
        assert_eq!(written.limits, unwritten.limits);
        assert_eq!(written.mounts, unwritten.mounts);
        let own = |plugin: &Plugin| Plugin {
            library: None,
            settings: "{}".into(),
            ..plugin.clone()
        };
        assert_eq!(own(&written.plugins["room"]), own(&unwritten.plugins["room"]));
        assert_eq!(written.routes[0], unwritten.routes[0]);
    }
}

#[test]
fn the_shipped_files_lack_nothing() {
    for file in ["bennu.toml", "conformance.toml", "bench.toml"] {
        let config = Config::read(&shipped(file), Mode::Serve).expect(file);
        assert_eq!(config.lacks(), [], "{file}");
    }
    let empty = Config::parse(&shipped("bennu.toml"), "", Mode::Serve).expect("nothing");
    assert_eq!(empty.lacks().len(), 2);
}

#[test]
fn the_shipped_file_has_every_setting() {
    let text = std::fs::read_to_string(shipped("bennu.toml")).expect("bennu.toml");
    let sections = [
        "server",
        "admin",
        "api",
        "api.keys",
        "log",
        "limits",
        "mounts",
        "mounts.auth",
        "mounts.auth.jwt",
        "mounts.auth.phoenix_token",
        "mounts.longpoll",
        "mounts.longpoll.crypto",
        "plugins.room",
        "routes",
        "cluster",
        "telemetry",
    ];
    for section in sections {
        let header = if ["mounts", "routes", "api.keys"].contains(&section) {
            format!("[[{section}]]")
        } else {
            format!("[{section}]")
        };
        assert!(text.contains(&header), "{header} is missing");
        for key in known_settings(section, &header) {
            let line = format!("\n{key} = ");
            let below = format!("\n[{section}.{key}]");
            let off = format!("\n# {key} = ");
            let below_off = format!("\n# [{section}.{key}]");
            let list = format!("[[{section}.{key}]]");
            let forms = [line, below, off, below_off, list];
            assert!(
                forms.iter().any(|form| text.contains(form)),
                "{header} {key} is missing"
            );
        }
    }
}

/// What a section may hold, as it tells who writes a setting that there is not.
fn known_settings(section: &str, header: &str) -> Vec<String> {
    let outer = if section.starts_with("mounts.") {
        "[[mounts]]\npath = \"/a\"\n"
    } else {
        ""
    };
    let found = diagnostics(&format!("{outer}{header}\n\"~\" = 1\n"));
    let unknown = found
        .iter()
        .find(|diagnostic| diagnostic.message().ends_with("has no setting `~`"))
        .expect("refused");
    let shown = unknown.render(false);
    let list = shown.rsplit_once("known: ").expect("the list").1;
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_other_shipped_files_have_no_mistake() {
    for name in ["test.toml", "bench.toml"] {
        for mode in [Mode::Dev, Mode::Serve] {
            let config = Config::read(&shipped(name), mode).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
            assert_eq!(config.warnings, []);
        }
    }
}

#[test]
fn paths_start_at_the_folder_of_the_file() {
    let config = Config::read(&shipped("bennu.toml"), Mode::Serve).expect("bennu.toml");
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the checkout");
    let library = config.plugins["room"].library.as_deref();
    assert_eq!(library, Some(checkout.join("target/release/libroom.so").as_path()));
    let config = Config::parse(
        Path::new("/etc/none/x.toml"),
        "[server]\nstage_dir = \"/a\"\nsecret_key_base_file = \"./b\"",
        Mode::Serve,
    );
    let server = config.expect("a configuration").server;
    assert_eq!(
        (server.stage_dir, server.secret_key_base_file),
        (Some("/a".into()), Some("/etc/none/b".into()))
    );
}

#[test]
fn dev_lets_pages_of_this_machine_connect_and_has_an_admin_listener() {
    let text = "[server]\nurl_host = \"Example.com\"\n[[mounts]]\npath = \"/socket\"\n";
    let hosts = |names: &[&str]| CheckOrigin::Hosts(names.iter().map(|name| (*name).to_owned()).collect());
    let dev = Config::parse(Path::new("bennu.toml"), text, Mode::Dev).expect("a configuration");
    assert_eq!(
        dev.mounts[0].check_origin,
        hosts(&["example.com", "localhost", "127.0.0.1"])
    );
    assert_eq!(dev.admin.listen, "127.0.0.1:4001".parse().ok());
    let serve = read(text);
    assert_eq!(serve.mounts[0].check_origin, hosts(&["example.com"]));
    assert_eq!(serve.admin.listen, None);
}

#[test]
fn settings_and_assigns_become_json() {
    let settings = "settings = { a = 0x10, b = 1.0, c = [true, \"x\"], d = 2020-01-02T03:04:05Z, \"e.f\" = {} }";
    let text =
        format!("[[routes]]\ntopic=\"a\"\nplugin=\"p\"\nassigns = {{ x = 1 }}\n[plugins.p]\nlibrary=\"l\"\n{settings}");
    let config = read(&text);
    assert_eq!(
        &*config.plugins["p"].settings,
        r#"{"a":16,"b":1.0,"c":[true,"x"],"d":"2020-01-02T03:04:05Z","e.f":{}}"#
    );
    assert_eq!(config.routes[0].assigns.as_deref(), Some(r#"{"x":1}"#));
    assert_eq!(&*read(BARE).plugins["room"].settings, "{}");
}

#[test]
fn the_phoenix_0_11_dialect_has_the_defaults_of_phoenix_0_11() {
    let text = "[[mounts]]\npath = \"/ws\"\ndialect = \"0.11\"\nlongpoll.max_buffer_messages = 7\n";
    let phoenix_0_11 = |text: &str| read(text).mounts[0].phoenix_0_11.clone().expect("the dialect");
    let Phoenix011 {
        origins,
        longpoll: Some(longpoll),
    } = phoenix_0_11(text)
    else {
        panic!("long polling is on")
    };
    assert_eq!(origins, None);
    assert_eq!(
        (longpoll.window, longpoll.pubsub_timeout, longpoll.max_buffer_messages),
        (Duration::from_secs(10), Duration::from_secs(1), 7)
    );
    let crypto = Crypto {
        iterations: 1_000,
        length: 32,
        digest: Digest::Sha256,
        cache: true,
    };
    assert_eq!(longpoll.crypto, crypto);
    let origins = phoenix_0_11(&format!("{text}origins = [\"//a.example\"]\n"))
        .origins
        .expect("a list");
    assert_eq!(
        (origins[0].scheme.as_deref(), origins[0].host.as_str(), origins[0].port),
        (None, "a.example", None)
    );
    assert_eq!(read("[[mounts]]\npath = \"/ws\"\n").mounts[0].phoenix_0_11, None);
    let websocket = phoenix_0_11("[[mounts]]\npath = \"/ws\"\ndialect = \"0.11\"\nlongpoll = false\n");
    assert_eq!(websocket.longpoll, None);
}

#[test]
fn a_mount_for_supabases_clients_has_their_serializers_and_no_long_polling() {
    let mount = |settings: &str| {
        let text = format!("[[mounts]]\npath = \"/realtime/v1\"\n{settings}");
        Arc::clone(&read(&text).mounts[0])
    };
    let supabase = mount("dialect = \"supabase\"");
    assert_eq!(supabase.serializers, Serializers::new(SUPABASE));
    assert!(supabase.longpoll.is_none() && supabase.phoenix_0_11.is_none());
    assert_eq!(
        supabase
            .supabase
            .as_ref()
            .map(|supabase| supabase.max_broadcast_messages),
        Some(100)
    );
    let spoken =
        |mount: &Mount| [Dialect::Modern, Dialect::Phoenix011, Dialect::Supabase].map(|dialect| mount.speaks(dialect));
    assert_eq!(spoken(&supabase), [false, false, true]);
    assert_eq!(spoken(&mount("dialect = \"0.11\"")), [true, true, false]);
    assert_eq!(spoken(&mount("")), [true, false, false]);
    let polled = "[[mounts]]\npath = \"/a\"\ndialect = \"supabase\"\nlongpoll = {}";
    assert_eq!(read(polled).warnings.len(), 1, "long polling has no effect");
}

#[test]
fn what_is_set_is_what_is_read() {
    let config = Config::read(&shipped("test.toml"), Mode::Serve).expect("test.toml");
    assert_eq!(config.server.listen.map(|address| address.port()), Some(0));
    assert_eq!(config.server.drain_batch_interval, Duration::from_millis(20));
    let gate = &config.mounts[1];
    assert_eq!(
        (gate.path.as_str(), gate.connect.as_deref()),
        ("/gate", Some("misbehave"))
    );
    assert_eq!(gate.connect_info.headers, ["user-agent", "x-*"]);
    let CheckOrigin::List(origins) = &gate.check_origin else {
        panic!("a list")
    };
    assert_eq!((origins[0].port, origins[1].subdomains), (Some(443), true));
    assert_eq!(
        config
            .routes
            .iter()
            .map(|route| route.topic.to_string())
            .collect::<Vec<_>>(),
        ["echo:*", "room:*", "misbehave:*"]
    );
    let off = read("[[mounts]]\npath = \"/a\"\nlongpoll = false\ncheck_origin = \"conn\"\n[admin]\nlisten = false\n");
    assert_eq!(
        (off.mounts[0].longpoll.as_ref(), &off.mounts[0].check_origin),
        (None, &CheckOrigin::Conn)
    );
}

#[test]
fn a_mount_selects_what_its_connect_handler_sees() {
    let info = |settings: &str| {
        let config = read(&format!("[[mounts]]\npath = \"/a\"\n{settings}\n"));
        config.mounts[0].connect_info.clone()
    };
    assert_eq!(info(""), ConnectInfo::default());
    assert_eq!(info("connect_info = []\nconnect_static = {}"), ConnectInfo::default());
    let some = info("connect_info = [\"peer_data\", \"x_headers\"]\nheaders = [\"Accept\"]");
    assert_eq!((some.peer, some.uri), (true, false));
    assert_eq!(some.headers, ["x-*", "accept"]);
    let others = ["uri", "user_agent", "sec_websocket_headers", "trace_context_headers"];
    let others = info(&format!("connect_info = {others:?}"));
    assert_eq!((others.peer, others.uri), (false, true));
    assert_eq!(
        others.headers,
        ["user-agent", "sec-websocket-*", "traceparent", "tracestate"]
    );
    let pairs = info("connect_static = { region = \"eu\", n = 1 }").static_pairs;
    assert_eq!(pairs.as_deref(), Some(r#"{"n":1,"region":"eu"}"#));
}

#[test]
fn a_plugin_may_decide_about_origins_alone() {
    let text = "[[mounts]]\npath = \"/a\"\ncheck_origin = { plugin = \"auth\" }\n[plugins.auth]\nlibrary = \"l\"\n";
    let config = read(text);
    assert_eq!(config.mounts[0].check_origin, CheckOrigin::Plugin("auth".into()));
    assert_eq!(config.warnings, []);
}
