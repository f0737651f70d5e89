//! The two rooms of one name that clients of Supabase have: they live on shards of their own, and a client sees one channel.

use bennu_tools::client::{Frame, Incoming, Options, RawClient, Transport};
use serde_json::{Value, json};

use crate::support::server::Bench;

#[tokio::test]
async fn a_join_that_the_other_room_has_replaced_is_not_answered_behind_its_close() {
    let bench = Bench::new();
    bench.append(
        "[[mounts]]\npath = \"/supabase\"\ndialect = \"supabase\"\n\n\
         [[routes]]\ntopic = \"private-misbehave:*\"\nplugin = \"misbehave\"",
    );
    let server = bench.serve().await;
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.mount = "/supabase".into();
    let mut client = RawClient::connect(&options).await.expect("connected");
    let slow = json!({ "do": "later", "ms": 200, "config": { "private": true } });
    for (own_ref, topic, params) in [
        ("1", "misbehave:a", slow),
        ("2", "misbehave:a", json!({})),
        // Its answer comes after that of the first would have.
        ("3", "misbehave:b", json!({ "do": "later", "ms": 600 })),
    ] {
        let join = json!([own_ref, own_ref, topic, "phx_join", params]);
        client.send(Frame::Text(join.to_string())).await.expect("sent");
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let Incoming::Frame(Frame::Text(text)) = client.next().await.expect("a frame") else {
            panic!("after {seen:?}")
        };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        seen.push((frame[0].clone(), frame[3].clone()));
    }
    let expected = [("2", "phx_reply"), ("1", "phx_close"), ("3", "phx_reply")];
    assert_eq!(seen, expected.map(|(own_ref, event)| (json!(own_ref), json!(event))));
}
