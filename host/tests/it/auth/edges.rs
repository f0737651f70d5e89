//! Tokens that are odd, socket ids that are kept away, and files of keys that are wrong for a while.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bennu_tools::client::{Options, Transport};
use http::{HeaderName, HeaderValue};
use serde_json::json;

use crate::api::{self, Backend};
use crate::auth::{
    BOTH, JWT, OTHER, SECRET, TOPIC, connect, now_s, options, refused, serve, serve_with, token, token_of,
};
use crate::support::client::Client;
use crate::support::http::metric;
use crate::support::server::Server;

/// A client that brings no token yet.
fn without(server: &Server, transport: Transport) -> Options {
    let mut options = Options::new(server.address, transport);
    options.mount = "/auth".to_owned();
    options
}

fn header(name: &'static str, value: &[u8]) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_bytes(value).expect("a header");
    (HeaderName::from_static(name), value)
}

#[tokio::test]
async fn a_socket_id_that_is_kept_away_comes_in_by_no_new_token_either() {
    let bench = api::bench();
    fs::write(bench.path("jwt_secret"), SECRET).expect("written");
    bench.append(&format!(
        "[[mounts]]\npath = \"/auth\"\n[mounts.auth]\n{JWT}\nrequired = false"
    ));
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let refuse = async |refuse_ms: u64| {
        let asked = json!({ "socket_id": "user:ann", "refuse_ms": refuse_ms });
        assert_eq!(backend.post("/api/disconnect", asked).await.0, 200);
    };
    refuse(3_600_000).await;
    for transport in BOTH {
        let mut ann = Client::connect_with(&without(&server, transport)).await;
        ann.join(TOPIC, json!({})).await;
        let shown = json!({ "access_token": token_of("ann") });
        let reply = ann.try_push(TOPIC, "access_token", shown.clone()).await;
        assert_eq!(reply["response"], json!({ "reason": "invalid token" }));
        assert_eq!(ann.push(TOPIC, "whoami", json!({})).await["socket_id"], json!(null));
        // Others come in, and so does ann when that is over.
        refuse(0).await;
        assert_eq!(ann.push(TOPIC, "access_token", shown).await["sub"], "ann");
        assert_eq!(ann.push(TOPIC, "whoami", json!({})).await["socket_id"], "user:ann");
        refuse(3_600_000).await;
    }
    let refused = "bennu_auth_refused_total{reason=\"socket_id_refused\"}";
    assert_eq!(metric(server.admin().await, refused).await, 2);
}

#[tokio::test]
async fn a_socket_id_that_no_disconnect_can_name_is_refused_with_its_token() {
    let (_bench, server) = serve_with(&format!("{JWT}\nrequired = false"), "").await;
    let of = |bytes: usize| token_of(&"x".repeat(bytes));
    let longest = 1_024 - "user:".len();
    for transport in BOTH {
        assert_eq!(refused(&options(&server, transport, &of(longest))).await, None);
        assert_eq!(refused(&options(&server, transport, &of(longest + 1))).await, Some(403));
        let mut later = Client::connect_with(&without(&server, transport)).await;
        later.join(TOPIC, json!({})).await;
        let shown = json!({ "access_token": of(longest + 1) });
        let reply = later.try_push(TOPIC, "access_token", shown).await;
        assert_eq!(reply["response"], json!({ "reason": "invalid token" }));
    }
    let refused = "bennu_auth_refused_total{reason=\"socket_id_too_long\"}";
    assert_eq!(metric(server.admin().await, refused).await, 4);
}

#[tokio::test]
async fn a_socket_id_of_a_connect_handler_may_be_no_longer() {
    let (_bench, server) = serve_with(&format!("{JWT}\nfrom = [\"auth_token\"]"), "connect = \"misbehave\"").await;
    let of = |bytes: usize| {
        let mut options = options(&server, Transport::WebSocket, &token_of("ann"));
        options.params = vec![("token".into(), "open".into()), ("user".into(), "x".repeat(bytes))];
        options
    };
    let longest = 1_024 - "user:".len();
    assert_eq!(refused(&of(longest)).await, None);
    assert_eq!(refused(&of(longest + 1)).await, Some(403));
    server
        .log
        .line(&["its socket id is longer than `max_topic_bytes`"])
        .await;
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_a_bad_one_and_an_empty_one_is_none() {
    let settings = format!(
        "{JWT}\nfrom = [\"auth_token\", \"params.token\", \"header.authorization\", \"header.x-own\"]\nrequired = false"
    );
    let (_bench, server) = serve_with(&settings, "").await;
    let empty = |transport| match transport {
        Transport::WebSocket => header("sec-websocket-protocol", b"phoenix, base64url.bearer.phx."),
        Transport::LongPoll => header("x-phoenix-authtoken", b""),
    };
    for transport in BOTH {
        let with = |headers: Vec<(HeaderName, HeaderValue)>, params: &[(&str, &str)]| {
            let mut options = without(&server, transport);
            for (name, value) in headers {
                options.headers.append(name, value);
            }
            options.params = { params.iter() }
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect();
            options
        };
        let good = format!("Bearer {}", token_of("ann"));
        let taken = async |options: Options| {
            let mut client = Client::connect_with(&options).await;
            client.join(TOPIC, json!({})).await;
            client.push(TOPIC, "claims", json!({})).await["sub"].clone()
        };
        // After an empty one, the next place counts, and nothing but empty ones are none.
        let authorization = |value: &[u8]| header("authorization", value);
        let options = with(vec![empty(transport), authorization(good.as_bytes())], &[("token", "")]);
        assert_eq!(taken(options).await, "ann");
        assert_eq!(taken(with(vec![empty(transport)], &[("token", "")])).await, json!(null));
        for (headers, params) in [
            (vec![empty(transport), authorization(b"Bearer x.y.z")], &[][..]),
            (vec![authorization(b"Bearer \xff\xfe")], &[]),
            (vec![authorization(b"Bearer \xc3\xa9")], &[]),
            (vec![header("x-own", b"x.y.z")], &[]),
            (vec![header("x-own", b"x.y.z"), header("x-own", b"x.y.z")], &[]),
            (vec![], &[("token[]", "x")]),
            (vec![], &[("token[a]", "x")]),
            // A good one in a later place makes up for none of them.
            (vec![authorization(good.as_bytes())], &[("token[]", "x")]),
        ] {
            let shown = format!("{} {headers:?} {params:?}", transport.name());
            assert_eq!(refused(&with(headers, params)).await, Some(403), "{shown}");
        }
    }
    let encoded = STANDARD_NO_PAD.encode(token_of("ann"));
    let two = format!("phoenix, base64url.bearer.phx.{encoded}, base64url.bearer.phx.{encoded}");
    let mut options = without(&server, Transport::WebSocket);
    options
        .headers
        .extend([header("sec-websocket-protocol", two.as_bytes())].map(|(name, value)| (Some(name), value)));
    assert_eq!(refused(&options).await, Some(403));
}

#[tokio::test]
async fn a_key_file_that_was_refused_for_its_mode_is_read_when_the_mode_is_mended() {
    let (bench, server) = serve().await;
    let new = options(
        &server,
        Transport::WebSocket,
        &token(json!({ "sub": "ann", "exp": now_s() + 3_600 }), OTHER),
    );
    let (next, file) = (bench.path("jwt_secret.new"), bench.path("jwt_secret"));
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::write(&next, OTHER).expect("written");
    fs::set_permissions(&next, mode(0o666)).expect("changed");
    fs::rename(next, &file).expect("moved");
    let refusal = ["keys refused, those in force stay", "writable by other users"];
    server.log.line(&refusal).await;
    assert_eq!(refused(&new).await, Some(403));
    fs::set_permissions(&file, mode(0o600)).expect("changed");
    server.log.line(&["keys replaced", "keys=1"]).await;
    drop(
        connect(
            &server,
            Transport::WebSocket,
            &token(json!({ "sub": "ann", "exp": now_s() + 60 }), OTHER),
        )
        .await,
    );
    assert_eq!(
        refused(&options(&server, Transport::WebSocket, &token_of("ann"))).await,
        Some(403)
    );
}
