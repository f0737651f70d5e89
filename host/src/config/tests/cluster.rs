//! `[cluster]`.

use std::time::Duration;

use super::*;
use crate::config::cluster_model::Login;

fn cluster(lines: &str) -> String {
    format!("{BARE}[cluster]\n{lines}\n")
}

#[track_caller]
fn check_refused(lines: &str, expected: &str) {
    check(&cluster(lines), expected);
}

#[test]
fn a_host_is_alone_unless_the_file_says_otherwise() {
    assert_eq!(read(BARE).cluster, None);
    let cluster = read(&cluster("")).cluster.expect("a cluster");
    assert_eq!((&*cluster.name, cluster.node, cluster.partitions), ("bennu", None, 256));
    assert_eq!(cluster.servers, ["nats://127.0.0.1:4222"]);
    assert_eq!((cluster.lease, cluster.login), (Duration::from_secs(5), Login::None));
}

#[test]
fn names_and_servers_are_those_that_the_broker_takes() {
    let named = read(&cluster("name = \"chat\"\nnode = \"a-1\""))
        .cluster
        .expect("a cluster");
    assert_eq!((&*named.name, named.node.as_deref()), ("chat", Some("a-1")));
    check_refused(
        "name = \"a.b\"",
        "6:8: `name` must have 1 to 48 letters, digits, `-` or `_`",
    );
    check_refused("servers = []", "6:11: `servers` names no server");
    check_refused(
        "servers = [\"127.0.0.1\"]",
        "6:12: this is not the URL of a NATS server",
    );
    check_refused(
        "servers = [\"nats://a:b@c\"]",
        "6:12: a URL of `servers` must not hold a password or a token",
    );
}

#[test]
fn a_login_names_what_it_needs_and_nothing_else() {
    let by = |lines: &str| read(&cluster(lines)).cluster.expect("a cluster").login;
    assert_eq!(
        by("login = \"user\"\nuser = \"ann\""),
        Login::User("ann".to_owned(), None)
    );
    let file = Some(PathBuf::from("/a"));
    assert_eq!(by("login = \"token\"\nlogin_file = \"/a\""), Login::Token(file));
    for (lines, what) in [
        ("login = \"user\"", "`login = \"user\"` needs `user`"),
        ("user = \"ann\"", "`user` goes with `login = \"user\"`"),
        (
            "login = \"credentials\"",
            "`login = \"credentials\"` needs `login_file`",
        ),
        ("login_file = \"/a\"", "`login_file` goes with `login`"),
        ("key_file = \"/a\"", "`cert_file` and `key_file` go together"),
    ] {
        check_refused(lines, &format!("5:1: {what}"));
    }
}
