//! What a connect handler sees of a request: what the mount selects, and nothing else.

use bennu_tools::client::{Client, Options, Transport};
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::support::server::Bench;

const SENT: [(&str, &str); 6] = [
    ("user-agent", "tests"),
    ("x-tenant", "7"),
    ("traceparent", "00-1-2-03"),
    ("accept-language", "de"),
    ("authorization", "Bearer 1"),
    ("cookie", "secret=1"),
];

/// What the handler of a mount with these settings saw, by WebSocket and by long polling; and the port that it was asked at.
async fn seen(settings: &str) -> Vec<(u16, Value)> {
    let bench = Bench::new();
    bench.append(&format!(
        "[[mounts]]\npath = \"/see\"\nconnect = \"misbehave\"\n{settings}"
    ));
    let server = bench.serve().await;
    let mut all = Vec::new();
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let mut options = Options::new(server.address, transport);
        options.mount = "/see".into();
        options.params = vec![("token".into(), "seen".into()), ("user".into(), "änn".into())];
        for (name, value) in SENT {
            let value = HeaderValue::from_static(value);
            options.headers.insert(HeaderName::from_static(name), value);
        }
        let mut client = Client::connect(&options).await.expect("connected");
        client.join("misbehave:t", json!({})).await.expect("joined");
        let reply = client.call("misbehave:t", "whoami", json!({})).await.expect("a reply");
        let reply: &Value = reply.json().expect("JSON");
        let socket = reply["socket"].clone();
        assert_eq!(socket["transport"], transport.name());
        all.push((server.address.port(), socket));
    }
    all
}

/// The names of the headers that the handler saw, in the order of the alphabet.
async fn headers(settings: &str) -> Vec<Vec<String>> {
    let names = |(_, seen): (u16, Value)| {
        let pairs: Vec<(String, String)> = serde_json::from_value(seen["headers"].clone()).expect("pairs");
        let mut names: Vec<String> = pairs.into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    };
    seen(settings).await.into_iter().map(names).collect()
}

#[tokio::test]
async fn nothing_is_seen_that_is_not_selected() {
    for (_, seen) in seen("").await {
        assert_eq!((&seen["user"], &seen["mount"]), (&json!("änn"), &json!("/see")));
        for key in ["peer", "uri", "port", "query", "auth_token", "region"] {
            assert_eq!(seen[key], Value::Null, "{key}");
        }
        assert_eq!(seen["headers"], json!([]));
    }
}

#[tokio::test]
async fn the_address_and_the_uri_and_static_pairs_can_be_selected() {
    let settings = "connect_info = [\"peer_data\", \"uri\"]\nconnect_static = { region = \"eu\" }";
    for (port, seen) in seen(settings).await {
        let transport = seen["transport"].as_str().expect("text");
        assert_eq!(seen["peer"], "127.0.0.1");
        assert_eq!(seen["uri"], format!("http://127.0.0.1/see/{transport}"));
        assert_eq!(seen["port"], port);
        assert_eq!(seen["query"], "vsn=2.0.0&token=seen&user=%C3%A4nn");
        assert_eq!((&seen["region"], &seen["headers"]), (&json!("eu"), &json!([])));
    }
}

#[tokio::test]
async fn headers_can_be_selected_by_kind_and_by_name() {
    assert_eq!(
        headers("connect_info = [\"user_agent\"]").await,
        [["user-agent"], ["user-agent"]]
    );
    assert_eq!(
        headers("connect_info = [\"trace_context_headers\"]").await,
        [["traceparent"], ["traceparent"]]
    );
    let named = headers("headers = [\"Accept-Language\", \"auth*\"]").await;
    assert_eq!(
        named,
        [
            ["accept-language", "authorization"],
            ["accept-language", "authorization"]
        ]
    );
    let [by_websocket, by_longpoll] = &headers("connect_info = [\"sec_websocket_headers\", \"x_headers\"]").await[..]
    else {
        panic!("two transports")
    };
    assert_eq!(
        by_websocket,
        &["sec-websocket-key", "sec-websocket-version", "x-tenant"]
    );
    assert_eq!(by_longpoll, &["x-tenant"]);
}
