//! `bennu routes`: what the configuration says of topics.

use serde_json::{Value, json};

use crate::support::command::said;
use crate::support::server::Bench;

const ROUTES: &str = r#"
[[routes]]
topic = "door:*"
plugin = "echo"
transports = ["longpoll"]
mounts = ["/socket"]

[[routes]]
topic = "door:1"
plugin = "room"
"#;

fn routes(bench: &Bench, args: &[&str], code: i32) -> String {
    said(code, |command| {
        command.arg("routes").args(args).arg("--config").arg(bench.config())
    })
}

#[test]
fn all_routes_are_listed_with_their_lines() {
    let bench = Bench::new();
    bench.append(ROUTES);
    let shown = routes(&bench, &[], 0);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["topic", "plugin", "transports", "mounts", "place"]);
    let line = 1 + bench
        .read_config()
        .lines()
        .position(|line| line == "topic = \"door:*\"")
        .expect("there");
    let place = format!("{}:{line}", bench.config().display());
    assert_eq!(lines[4], ["door:*", "echo", "longpoll", "/socket", &place]);
    assert_eq!(lines.len(), 6);
    let listed: Value = serde_json::from_str(&routes(&bench, &["--json"], 0)).expect("JSON");
    let door = json!({ "topic": "door:*", "plugin": "echo", "transports": ["longpoll"], "mounts": ["/socket"], "place": place });
    assert_eq!(listed[3], door);
}

#[test]
fn a_topic_is_told_where_it_goes_from_each_door_and_why() {
    let bench = Bench::new();
    bench.append(ROUTES);
    let shown = routes(&bench, &["door:1"], 0);
    for words in [
        "from /socket by websocket to room\n",
        "from /socket by longpoll to echo\n",
        "from /gate by longpoll to room\n",
        "no: it does not start with `misbehave:`",
        "from some: it starts with `door:`; for the others the route is closed, or an earlier route takes it",
        "from some: it is `door:1`; for the others the route is closed, or an earlier route takes it",
    ] {
        assert!(shown.contains(words), "{words} is missing in\n{shown}");
    }
    let room = routes(&bench, &["room:lobby"], 0);
    assert!(room.contains("yes: it starts with `room:`"), "{room}");
    let answer: Value = serde_json::from_str(&routes(&bench, &["door:1", "--json"], 0)).expect("JSON");
    assert_eq!(answer["from"].as_array().expect("a list").len(), 6);
    assert_eq!(answer["from"][1]["plugin"], "echo");
}

#[test]
fn a_topic_that_goes_nowhere_is_told_the_nearest_route() {
    let bench = Bench::new();
    let shown = routes(&bench, &["rom:lobby"], 1);
    assert!(
        shown.contains("to nowhere: Bennu refuses the join, \"unmatched topic\""),
        "{shown}"
    );
    assert!(shown.contains("The nearest route is `room:*`"), "{shown}");
    let shown = routes(&bench, &["zzz"], 1);
    assert!(!shown.contains("nearest"), "{shown}");
}
