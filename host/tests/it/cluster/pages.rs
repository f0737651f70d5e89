//! The admin pages of all nodes, from any of them.

use bennu_tools::client::Transport;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Broker, Node, agree, patiently, two};
use crate::api::as_user;
use crate::support::client::Client;
use crate::support::http::{get, request};

/// The node of each entry of a list.
fn nodes(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    list.filter_map(|entry| entry["node"].as_str()).collect()
}

/// So many clients of the user `ann` at a node.
async fn anns(node: &Node, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::connect_with(&as_user(&node.server, Transport::WebSocket, "ann")).await);
    }
    clients
}

#[tokio::test]
async fn any_node_shows_the_pages_of_another_and_changes_its_plugins() {
    let (_broker, a, b) = two().await;
    let _anns = anns(&b, 3).await;
    for (path, of_b) in [
        ("/overview", "/overview?node=b"),
        ("/connections?limit=2", "/connections?limit=2&node=b"),
    ] {
        let (own, other) = (get(b.admin, path).await.json(), get(a.admin, of_b).await.json());
        let pid_of = |overview: &Value| overview["node"]["pid"].clone();
        assert_eq!(pid_of(&own), pid_of(&other), "{path}");
        assert_eq!(
            own["connections"].as_array().map(Vec::len),
            other["connections"].as_array().map(Vec::len)
        );
        let itself = get(a.admin, &of_b.replace("node=b", "node=a")).await.json();
        assert_eq!(pid_of(&itself), pid_of(&get(a.admin, path).await.json()));
    }
    let metrics = get(a.admin, "/metrics?node=b").await;
    assert!(metrics.body.contains("bennu_sockets 3\n"), "{}", metrics.body);
    let reloaded = request(a.admin, "PUT", "/plugins/echo/reload?node=b", "", "").await;
    assert!(
        (200..300).contains(&reloaded.status),
        "{} {}",
        reloaded.status,
        reloaded.body
    );
    // Whoever looks for who did it finds the operator, and the node where they were let in.
    let said = get(b.admin, "/history").await;
    patiently("note of the reload", async {
        while !get(b.admin, "/history").await.body.contains("127.0.0.1, by node a") {}
    })
    .await;
    assert_eq!(said.status, 200);
    assert!(!get(a.admin, "/history").await.body.contains("by node a"));
}

#[tokio::test]
async fn connections_and_closes_of_all_nodes_are_listed_and_all_can_be_disconnected() {
    let (_broker, a, b) = two().await;
    let _anns = (anns(&a, 3).await, anns(&b, 2).await);
    for node in [&a, &b] {
        for limit in 1..=6 {
            let (mut found, mut cursor) = (Vec::new(), String::new());
            loop {
                let path = format!("/connections?node=*&socket_id=user:ann&limit={limit}{cursor}");
                let page = get(node.admin, &path).await.json();
                assert!(nodes(&page["connections"]).len() <= limit);
                found.extend(nodes(&page["connections"]).into_iter().map(str::to_owned));
                assert_eq!(page["missing"], json!([]));
                match page["cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(found, ["a", "a", "a", "b", "b"], "{limit} on a page");
        }
    }
    let closed = request(
        a.admin,
        "DELETE",
        "/connections?node=%2A&socket_id=user:ann&refuse_ms=60000",
        "",
        "",
    )
    .await;
    assert_eq!(closed.json(), json!({ "disconnected": 5, "missing": [] }));
    for node in [&a, &b] {
        let all = async {
            loop {
                let page = get(node.admin, "/closes?node=*&reason=disconnected_by_operator")
                    .await
                    .json();
                if nodes(&page["closes"]).len() == 5 {
                    break page;
                }
            }
        };
        let page = patiently("closes", all).await;
        assert_eq!(page["missing"], json!([]));
        let times: Vec<u64> = { page["closes"].as_array().expect("a list").iter() }
            .filter_map(|close| close["at_unix_ms"].as_u64())
            .collect();
        assert!(times.is_sorted_by(|one, next| one >= next), "{times:?}");
        let few = get(node.admin, "/closes?node=*&reason=disconnected_by_operator&limit=2")
            .await
            .json();
        assert_eq!(nodes(&few["closes"]).len(), 2);
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_or_says_nothing_is_named() {
    let broker = Broker::start();
    // Its lease must not end before it is asked.
    let change = |bench: &crate::support::server::Bench| bench.set("cluster", "lease_ms", "30_000");
    let mut a = Node::start_with(&broker, "a", change).await;
    let b = Node::start_with(&broker, "b", change).await;
    agree(&[&a, &b]).await;
    let check = async |path: &str, status: u16, text: &str| {
        let answer = get(b.admin, path).await;
        assert_eq!((answer.status, &*answer.body), (status, text), "{path}");
    };
    check("/overview?node=c", 404, "there is no node `c`; there are: a, b\n").await;
    check(
        "/overview?node=*",
        400,
        "`node=*` is for `/connections` and `/closes`: name one node\n",
    )
    .await;
    check("/closes?node=*&limit=many", 400, "`limit` is not a number\n").await;
    check("/connections?node=*&limit=many", 400, "`limit` is not a number\n").await;
    check(
        "/connections?node=*&cursor=0",
        400,
        "`cursor` is not the `cursor` of a page\n",
    )
    .await;
    check(
        "/connections?node=a&nonsense=1",
        400,
        &get(b.admin, "/connections?nonsense=1").await.body,
    )
    .await;
    a.server.signal(Signal::KILL);
    a.server.ended().await;
    check("/overview?node=a", 503, "node a: the node is not there\n").await;
    for path in ["/connections?node=*", "/closes?node=*"] {
        let page = get(b.admin, path).await;
        assert_eq!((page.status, &page.json()["missing"]), (200, &json!(["a"])), "{path}");
    }
}
