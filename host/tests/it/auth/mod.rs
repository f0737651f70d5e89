//! Who may come in with which token, what channels know of it, and what happens when its time is over.

mod edges;
mod keys;
mod lasting;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bennu_tools::client::{ClientError, Options, RawClient, Transport};
use http::{HeaderName, HeaderValue};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::handshake::UPGRADE;
use crate::support::client::Client;
use crate::support::http::{metric, request};
use crate::support::server::{Bench, Server};
use crate::support::within;

pub(crate) const SECRET: &str = "hunter2: a secret of at least thirty-two bytes";
pub(crate) const OTHER: &str = "hunter2: another such secret, for the next year";
pub(crate) const TOPIC: &str = "misbehave:auth";
pub(crate) const BOTH: [Transport; 2] = [Transport::WebSocket, Transport::LongPoll];

/// A server whose mount `/auth` takes tokens signed with [`SECRET`], with more settings of `[mounts.auth]` and of the mount.
pub(crate) async fn serve_with(auth: &str, mount: &str) -> (Bench, Server) {
    let bench = Bench::new();
    fs::write(bench.path("jwt_secret"), SECRET).expect("written");
    bench.set("log", "level", "\"debug\"");
    bench.set("log", "client_burst", "10_000");
    bench.set("admin", "listen", "\"127.0.0.1:0\"");
    bench.append(&format!(
        r#"
        [[mounts]]
        path = "/auth"
        longpoll = {{ window_ms = 2_000, pubsub_timeout_ms = 1_000 }}
        {mount}
        [mounts.auth]
        {auth}
        "#
    ));
    let server = bench.serve().await;
    (bench, server)
}

pub(crate) const JWT: &str = r#"
    jwt = { algorithms = ["HS256"], secret_file = "jwt_secret", leeway_s = 0 }
    socket_id = "user:{sub}"
    refresh_interval_ms = 0
"#;

pub(crate) async fn serve() -> (Bench, Server) {
    serve_with(JWT, "").await
}

pub(crate) fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_secs()
}

fn token_by(header: &Header, claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes()).expect("a key");
    jsonwebtoken::encode(header, claims, &key).expect("a token")
}

pub(crate) fn token(claims: Value, secret: &str) -> String {
    token_by(&Header::default(), &claims, secret)
}

/// A good token of this user, for an hour.
pub(crate) fn token_of(sub: &str) -> String {
    token(json!({ "sub": sub, "exp": now_s() + 3_600 }), SECRET)
}

/// A client that shows its token as phoenix.js does.
pub(crate) fn options(server: &Server, transport: Transport, token: &str) -> Options {
    let mut options = Options::new(server.address, transport);
    options.mount = "/auth".to_owned();
    let (name, value) = match transport {
        Transport::WebSocket => {
            let encoded = STANDARD_NO_PAD.encode(token);
            let offer = format!("phoenix, base64url.bearer.phx.{encoded}");
            (HeaderName::from_static("sec-websocket-protocol"), offer)
        }
        Transport::LongPoll => (HeaderName::from_static("x-phoenix-authtoken"), token.to_owned()),
    };
    options
        .headers
        .insert(name, HeaderValue::from_str(&value).expect("a header"));
    options
}

pub(crate) async fn connect(server: &Server, transport: Transport, token: &str) -> Client {
    Client::connect_with(&options(server, transport, token)).await
}

/// The status with which a client is refused.
pub(crate) async fn refused(options: &Options) -> Option<u16> {
    match RawClient::connect(options).await {
        Ok(_) => None,
        Err(ClientError::Refused { status, .. }) => Some(status),
        Err(error) => panic!("{error}"),
    }
}

/// What a channel of the client sees of its token.
async fn claims(client: &mut Client, topic: &str) -> Value {
    client.push(topic, "claims", json!({})).await
}

#[tokio::test]
async fn a_token_is_found_in_each_place_and_its_claims_reach_the_channels() {
    let (_bench, server) = serve().await;
    let token = token_of("ann");
    for transport in BOTH {
        let mut by_param = Options::new(server.address, transport);
        by_param.mount = "/auth".to_owned();
        let mut by_header = by_param.clone();
        by_param.params = vec![("token".into(), token.clone())];
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
        by_header.headers.insert(http::header::AUTHORIZATION, bearer);
        for options in [by_param, by_header, options(&server, transport, &token)] {
            let mut client = Client::connect_with(&options).await;
            client.join(TOPIC, json!({})).await;
            assert_eq!(claims(&mut client, TOPIC).await["sub"], "ann");
            let me = client.push(TOPIC, "whoami", json!({})).await;
            assert_eq!(me["socket_id"], "user:ann");
        }
    }
    assert!(!server.log.text().contains(&token), "the log has the token");
}

#[tokio::test]
async fn the_token_of_a_long_polling_client_is_not_taken_for_that_of_its_session() {
    let (_bench, server) = serve().await;
    // As phoenix.js writes it: its own params first, then the session's token, `null` in the beginning.
    let path = format!("/auth/longpoll?token={}&vsn=2.0.0&token=", token_of("ann"));
    let opened = request(server.address, "GET", &format!("{path}null"), "", "")
        .await
        .json();
    assert_eq!(opened["status"], 410);
    let session = opened["token"].as_str().expect("a token");
    let join = r#"["1","1","misbehave:auth","phx_join",{}]"#;
    let sent = request(server.address, "POST", &format!("{path}{session}"), "", join).await;
    assert_eq!(sent.json()["status"], 200);
    let polled = request(server.address, "GET", &format!("{path}{session}"), "", "").await;
    assert_eq!(polled.json()["status"], 200);
}

/// A mount where one may be is no way around one where one must.
#[tokio::test]
async fn a_client_without_a_token_is_refused_unless_the_mount_lets_it_in_without_claims() {
    let (_bench, server) = serve_with(JWT, "").await;
    for transport in BOTH {
        let mut options = Options::new(server.address, transport);
        options.mount = "/auth".to_owned();
        assert_eq!(refused(&options).await, Some(403));
    }
    let (_bench, server) = serve_with(&format!("{JWT}\nrequired = false"), "").await;
    for transport in BOTH {
        let mut without = Options::new(server.address, transport);
        without.mount = "/auth".to_owned();
        let mut client = Client::connect_with(&without).await;
        client.join(TOPIC, json!({})).await;
        assert_eq!(claims(&mut client, TOPIC).await, json!({}));
        assert_eq!(refused(&options(&server, transport, "bad")).await, Some(403));
    }
}

/// What attackers try: each is refused, and each is counted.
#[tokio::test]
async fn no_forged_token_comes_in_over_any_transport() {
    let settings = r#"
        jwt = { algorithms = ["HS256"], secret_file = "jwt_secret", issuer = "me", audience = "here" }
        socket_id = "user:{sub}"
    "#;
    let (_bench, server) = serve_with(settings, "").await;
    let good = json!({ "sub": "ann", "iss": "me", "aud": "here", "exp": now_s() + 3_600 });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token(claims, SECRET)
    };
    let unsigned = |alg: &str| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&json!({ "alg": alg, "typ": "JWT" })), part(&good))
    };
    let kid = |kid: &str, secret: &str| {
        let header = Header {
            kid: Some(kid.to_owned()),
            jku: Some("http://127.0.0.1:9/keys".to_owned()),
            ..Header::default()
        };
        token_by(&header, &good, secret)
    };
    let signed = token(good.clone(), SECRET);
    let tried = [
        ("algorithm", unsigned("none")),
        ("algorithm", unsigned("nOnE")),
        ("signature", unsigned("HS256")),
        (
            "algorithm",
            token_by(&Header::new(jsonwebtoken::Algorithm::HS512), &good, SECRET),
        ),
        ("signature", token(good.clone(), OTHER)),
        ("signature", kid("../../../dev/null", "\0")),
        ("signature", format!("{}A", &signed[..signed.len() - 2])),
        ("malformed", signed.replace('.', "")),
        ("malformed", format!("{signed}.x")),
        ("kind", format!("SFMyNTY.{}", signed.split_once('.').expect("parts").1)),
        (
            "no_exp",
            token(json!({ "sub": "ann", "iss": "me", "aud": "here" }), SECRET),
        ),
        ("expired", with("exp", json!(now_s() - 10))),
        ("not_yet_valid", with("nbf", json!(now_s() + 60))),
        ("issuer", with("iss", json!("you"))),
        ("audience", with("aud", json!(["there"]))),
        ("claim", with("sub", json!(null))),
    ];
    let admin = server.admin().await;
    for transport in BOTH {
        for (reason, token) in &tried {
            let name = format!("bennu_auth_refused_total{{reason=\"{reason}\"}}");
            let before = metric(admin, &name).await;
            assert_eq!(
                refused(&options(&server, transport, token)).await,
                Some(403),
                "{reason}"
            );
            assert_eq!(metric(admin, &name).await, before + 1, "{reason}");
        }
        assert_eq!(refused(&options(&server, transport, &signed)).await, None);
        assert_eq!(refused(&options(&server, transport, &kid("any", SECRET))).await, None);
    }
    // By a browser's request line, an answer without detail.
    let path = format!("/auth/websocket?vsn=2.0.0&token={}", unsigned("none"));
    let answer = request(server.address, "GET", &path, UPGRADE, "").await;
    assert_eq!((answer.status, &*answer.body), (403, ""));
    let log = server.log.text();
    assert!(
        tried.iter().all(|(_, token)| !log.contains(token.as_str())),
        "the log has a token"
    );
    assert!(!log.contains("hunter2"), "the log has a secret");
    assert!(log.contains("reason=\"audience\""), "the log does not say why");
}

#[tokio::test]
async fn a_token_that_is_too_long_is_refused_unread() {
    let (bench, server) = serve().await;
    drop(server);
    bench.set("limits", "max_header_bytes", "262_144");
    let server = bench.serve().await;
    let long = |bytes: usize| {
        token(
            json!({ "sub": "x", "pad": "x".repeat(bytes), "exp": now_s() + 60 }),
            SECRET,
        )
    };
    for transport in BOTH {
        assert_eq!(refused(&options(&server, transport, &long(9_000))).await, None);
        assert_eq!(refused(&options(&server, transport, &long(48 * 1024))).await, Some(403));
    }
    let admin = server.admin().await;
    assert_eq!(metric(admin, "bennu_auth_refused_total{reason=\"too_long\"}").await, 2);
}

#[tokio::test]
async fn the_connect_handler_runs_behind_the_token_and_sees_its_claims() {
    let settings = JWT.to_owned() + "from = [\"auth_token\"]";
    let (_bench, server) = serve_with(&settings, "connect = \"misbehave\"").await;
    for transport in BOTH {
        let with = |params: &[(&str, &str)]| {
            let mut options = options(&server, transport, &token_of("ann"));
            options.params = params
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect();
            options
        };
        let mut client = Client::connect_with(&with(&[("token", "seen"), ("user", "bob")])).await;
        client.join(TOPIC, json!({})).await;
        let me = client.push(TOPIC, "whoami", json!({})).await;
        assert_eq!(me["socket"]["claims"]["sub"], "ann");
        // Its own id takes the place of that of the token.
        assert_eq!(me["socket_id"], "user:bob");
        let mut client = Client::connect_with(&with(&[])).await;
        client.join(TOPIC, json!({})).await;
        assert_eq!(client.push(TOPIC, "whoami", json!({})).await["socket_id"], "user:ann");
        assert_eq!(refused(&with(&[("token", "closed")])).await, Some(403));
        let mut bad = with(&[("token", "panic")]);
        bad.headers = options(&server, transport, "bad").headers;
        assert_eq!(refused(&bad).await, Some(403));
    }
    let panics = server.log.text().matches("plugin panicked").count();
    assert_eq!(panics, 0, "the handler was asked about a client without a good token");
}

#[tokio::test]
async fn a_disconnect_finds_the_socket_id_of_the_token() {
    let (_bench, server) = serve().await;
    for transport in BOTH {
        let mut ann = connect(&server, transport, &token_of("ann")).await;
        ann.join(TOPIC, json!({})).await;
        let mut bob = connect(&server, transport, &token_of("bob")).await;
        bob.join(TOPIC, json!({})).await;
        bob.start(TOPIC, "disconnect", json!({ "topic": "user:ann" })).await;
        ann.ended().await;
        assert_eq!(claims(&mut bob, TOPIC).await["sub"], "bob");
    }
}

#[tokio::test]
async fn a_stopping_server_waits_for_no_token() {
    let (_bench, server) = serve().await;
    let mut ann = connect(&server, Transport::WebSocket, &token_of("ann")).await;
    ann.join(TOPIC, json!({})).await;
    let stopped = tokio::spawn(server.stop());
    assert_eq!(ann.close_code().await, 1012);
    assert!(stopped.await.expect("stopped").success());
}
