//! Reads `[cluster]`.

use std::path::PathBuf;

use serde_json::json;
use toml::Spanned;

use super::amount::{GIBIBYTE, MANY, MEBIBYTE};
use super::around::Surroundings;
use super::cluster_model::{Cluster, Login};
use super::reader::Section;

/// What brokers there are.
const ENGINES: [(&str, ()); 1] = [("nats", ())];
/// How the URLs of servers begin.
const SCHEMES: [&str; 2] = ["nats://", "tls://"];
/// The ways of NATS to show who one is.
const LOGINS: [(&str, By); 5] = [
    ("none", By::None),
    ("user", By::User),
    ("token", By::Token),
    ("nkey", By::Nkey),
    ("credentials", By::Credentials),
];
/// The longest name of a cluster or a node, in bytes.
const MOST_NAME: usize = 48;

/// How a node shows who it is, as it is written.
#[derive(Clone, Copy, PartialEq)]
enum By {
    None,
    User,
    Token,
    Nkey,
    Credentials,
}

/// `None` if the section is missing.
pub(super) fn cluster(section: Section<'_>, around: &Surroundings<'_>) -> Option<Cluster> {
    if section.is_there() && !cfg!(any(feature = "cluster", test)) {
        let built = section
            .mistakes
            .error(section.at.clone(), "this `bennu` was built without `[cluster]`");
        section
            .mistakes
            .add(built.help("build it with `cargo build --release --features cluster`"));
    }
    section.choice("engine", &ENGINES, ());
    let cluster = Cluster {
        servers: servers(&section),
        name: name(&section, "name").unwrap_or_else(|| "bennu".to_owned()),
        node: node(&section),
        login: login(&section, around),
        ca_file: around.path(section.text("ca_file")),
        client_cert: client_cert(&section, around),
        // The range is within 16 bits.
        partitions: section.number("partitions", 256, 1..=4_096) as u16,
        lease: section.millis("lease_ms", 5_000, 500..=60_000),
        replicas: section.count("replicas", 1, 1..=5),
        max_link_bytes: section.count("max_link_bytes", 4 * MEBIBYTE, 65_536..=64 * MEBIBYTE),
        max_queue_bytes: section.count("max_queue_bytes", 64 * MEBIBYTE, MEBIBYTE..=16 * GIBIBYTE),
        max_item_bytes: section.count("max_item_bytes", 16 * MEBIBYTE, 65_536..=GIBIBYTE),
        max_questions: section.count("max_questions", 100_000, 1..=MANY),
        max_guests: section.count("max_guests", 1_000_000, 1..=MANY),
    };
    let is_there = section.is_there();
    section.finish();
    is_there.then_some(cluster)
}

fn servers(section: &Section<'_>) -> Vec<String> {
    let default = "nats://127.0.0.1:4222";
    let servers = section.texts("servers");
    section.note(
        "servers",
        json!({ "type": "array", "items": { "type": "string" }, "minItems": 1, "default": [default] }),
    );
    let Some(servers) = servers else {
        return vec![default.to_owned()];
    };
    if let (true, Some(list)) = (servers.is_empty(), section.value("servers")) {
        let none = section.mistakes.error(list.span(), "`servers` names no server");
        section
            .mistakes
            .add(none.help(format!("write at least one, such as [\"{default}\"]")));
    }
    for server in &servers {
        let rest = SCHEMES.iter().find_map(|scheme| server.get_ref().strip_prefix(scheme));
        let (message, help) = match rest {
            None | Some("") => (
                "this is not the URL of a NATS server",
                "write such as \"nats://127.0.0.1:4222\", or \"tls://…\" for TLS",
            ),
            Some(rest) if rest.contains('@') => (
                "a URL of `servers` must not hold a password or a token",
                "set `user` and BENNU_NATS_PASSWORD, or BENNU_NATS_TOKEN",
            ),
            Some(_) => continue,
        };
        section
            .mistakes
            .add(section.mistakes.error(server.span(), message).help(help));
    }
    servers.into_iter().map(Spanned::into_inner).collect()
}

/// A name that can stand in subjects and keys of the broker.
fn name(section: &Section<'_>, key: &'static str) -> Option<String> {
    let text = section.text(key)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let name = text.get_ref();
    if name.is_empty() || name.len() > MOST_NAME || !name.bytes().all(is_plain) {
        let message = format!("`{key}` must have 1 to {MOST_NAME} letters, digits, `-` or `_`");
        section.mistakes.add(
            section
                .mistakes
                .error(text.span(), message)
                .help("it stands in the names of subjects and buckets of the broker"),
        );
    }
    Some(text.into_inner())
}

fn node(section: &Section<'_>) -> Option<String> {
    let node = name(section, "node").filter(|name| name != "auto");
    section.note("node", json!({ "type": "string", "default": "auto" }));
    node
}

/// How a node shows who it is. A file is needed only where no environment variable holds the secret.
fn login(section: &Section<'_>, around: &Surroundings<'_>) -> Login {
    let by = section.choice("login", &LOGINS, By::None);
    let user = section.text("user").map(Spanned::into_inner);
    let file = around.path(section.text("login_file"));
    let refuse = |message: &str, help: &str| {
        let refused = section.mistakes.error(section.at.clone(), message);
        section.mistakes.add(refused.help(help));
        Login::None
    };
    match (by, user, file) {
        (By::User, Some(user), file) => Login::User(user, file),
        (By::User, None, _) => refuse(
            "`login = \"user\"` needs `user`",
            "add a line such as `user = \"bennu\"`",
        ),
        (_, Some(_), _) => refuse(
            "`user` goes with `login = \"user\"`",
            "set `login`, or leave `user` out",
        ),
        (By::Credentials, None, Some(file)) => Login::Credentials(file),
        (By::Credentials, None, None) => refuse(
            "`login = \"credentials\"` needs `login_file`",
            "name the file that `nsc` has written",
        ),
        (By::Token, None, file) => Login::Token(file),
        (By::Nkey, None, file) => Login::Nkey(file),
        (By::None, None, Some(_)) => refuse(
            "`login_file` goes with `login`",
            "set `login`, or leave `login_file` out",
        ),
        (By::None, None, None) => Login::None,
    }
}

fn client_cert(section: &Section<'_>, around: &Surroundings<'_>) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = (section.text("cert_file"), section.text("key_file"));
    if cert.is_some() != key.is_some() {
        let message = "`cert_file` and `key_file` go together";
        section.mistakes.add(
            section
                .mistakes
                .error(section.at.clone(), message)
                .help("add the other one"),
        );
    }
    Some((around.path(cert)?, around.path(key)?))
}
