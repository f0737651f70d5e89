//! `bennu call`: a client in the terminal, against a real server.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::command::{at_terminal, ended, run, said};
use crate::support::server::{Bench, Server, bennu};

const TRANSPORTS: [&str; 2] = ["--transport=websocket", "--transport=longpoll"];

fn call<'a>(command: &'a mut Command, server: &Server, args: &[&str]) -> &'a mut Command {
    command.arg("call").arg(server.address.to_string()).args(args)
}

/// What is complained of by a call that ends with this exit code.
fn complained(server: &Server, args: &[&str], code: i32) -> String {
    let (output, said, complained) = run(|command| call(command, server, args));
    assert_eq!(output.status.code(), Some(code), "{said}{complained}");
    complained
}

/// What a call says that gets these lines.
fn told(server: &Server, args: &[&str], lines: &str, code: i32) -> String {
    let mut command = bennu();
    call(&mut command, server, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(lines.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(code));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn an_event_is_answered_over_either_transport() {
    let server = Bench::new().serve().await;
    for transport in TRANSPORTS {
        let reply = said(0, |command| {
            call(command, &server, &["echo:1", "echo", "{\"n\": 1}", transport])
        });
        assert_eq!(reply, "{\"n\":1}\n", "{transport}");
    }
}

#[tokio::test]
async fn the_plugin_to_copy_answers_a_shout() {
    let server = Bench::new().serve().await;
    let mut other = Client::joined(&server, "echo:1").await;
    let reply = said(0, |command| call(command, &server, &["echo:1", "shout", "{\"n\": 1}"]));
    assert_eq!(reply, "{}\n");
    assert_eq!(other.event("echo:1", "shout").await, json!({ "n": 1 }));
}

#[tokio::test]
async fn lines_of_the_standard_input_are_events() {
    let server = Bench::new().serve().await;
    let said = told(&server, &["echo:1"], "echo {\"n\": 1}\n\necho {\"n\": 2}\n", 0);
    assert_eq!(said, "joined ok {}\necho ok {\"n\":1}\necho ok {\"n\":2}\n");
    let said = told(&server, &["echo:1", "--json"], "echo {\"n\": 1}\nunheard_of\n", 1);
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let reply = json!({ "topic": "echo:1", "event": "echo", "status": "ok", "payload": { "n": 1 } });
    assert_eq!((&lines[1], &lines[2]["status"]), (&reply, &json!("error")));
}

#[tokio::test]
async fn what_is_refused_is_told_with_what_to_do() {
    let server = Bench::new().serve().await;
    let join = complained(&server, &["nobody:1", "echo"], 1);
    assert!(
        join.starts_with("error: the join of nobody:1 is refused: {\"reason\":\"unmatched topic\"}\n"),
        "{join}"
    );
    assert!(join.contains("= help: `bennu routes TOPIC`"), "{join}");
    let join = complained(&server, &["misbehave:1", "--join", "{\"do\": \"refuse\"}"], 1);
    assert_eq!(
        join,
        "error: the join of misbehave:1 is refused: {\"reason\":\"refused\"}\n"
    );
    let join = complained(&server, &["room:1"], 1);
    assert!(join.contains("= help: --join JSON gives"), "{join}");
    let event = complained(&server, &["echo:1", "unheard_of"], 1);
    assert!(
        event.starts_with("error: unheard_of is answered with error\n"),
        "{event}"
    );
    let panics = complained(&server, &["misbehave:1", "panic"], 3);
    assert!(panics.contains("the channel of misbehave:1 has failed"), "{panics}");
}

#[tokio::test]
async fn who_is_not_let_in_and_who_finds_nobody_is_told() {
    let server = Bench::new().serve().await;
    let at = |path: &str| format!("http://{}{path}", server.address);
    let call = |url: &str, args: &[&str], code| {
        let (output, said, complained) = run(|command| command.args(["call", url, "misbehave:1", "whoami"]).args(args));
        assert_eq!(output.status.code(), Some(code), "{said}{complained}");
        (said, complained)
    };
    let (_, closed) = call(&at("/gate"), &["--param", "token=no"], 1);
    assert!(
        closed.contains("403: {\"reason\":\"closed\"}") && closed.contains("--param"),
        "{closed}"
    );
    let (open, _) = call(&at("/gate/longpoll?user=ann"), &["--param", "token=open"], 0);
    assert!(open.contains("ann"), "{open}");
    let (_, nothing) = call(&at("/nowhere"), &[], 1);
    assert!(nothing.contains("nothing is mounted at /nowhere"), "{nothing}");
    let gone = at("");
    drop(server);
    let (_, nobody) = call(&gone, &[], 3);
    assert_eq!(nobody.matches("refused").count(), 1, "{nobody}");
    assert!(nobody.contains("bennu dev"), "{nobody}");
}

#[tokio::test]
async fn an_event_without_a_reply_is_not_waited_for_for_ever() {
    let server = Bench::new().serve().await;
    let late = complained(&server, &["misbehave:1", "silent", "--timeout", "1"], 3);
    assert!(
        late.contains("no reply to silent") && late.contains("--no-reply"),
        "{late}"
    );
    let mut client = Client::joined(&server, "echo:1").await;
    said(0, |command| {
        call(command, &server, &["echo:1", "shout", "{\"n\": 1}", "--no-reply"])
    });
    assert_eq!(client.event("echo:1", "shout").await, json!({ "n": 1 }));
}

#[tokio::test]
async fn what_is_refused_is_told_though_no_reply_is_waited_for() {
    let server = Bench::new().serve().await;
    for transport in TRANSPORTS {
        let refused = complained(&server, &["echo:1", "unheard_of", "--no-reply", transport], 1);
        assert_eq!(refused, "error: unheard_of is answered with error\n");
        let panics = complained(&server, &["misbehave:1", "panic", "--no-reply", transport], 3);
        assert!(panics.contains("the channel of misbehave:1 has failed"), "{panics}");
        said(0, |command| {
            call(command, &server, &["echo:1", "echo", "--no-reply", transport])
        });
    }
}

#[tokio::test]
async fn a_plugin_out_of_service_is_told_with_where_to_look() {
    let bench = Bench::new();
    bench.append("[plugins.gone]\nlibrary = \"libgone.so\"\n[[routes]]\ntopic = \"gone:*\"\nplugin = \"gone\"");
    let server = bench.dev().await;
    let join = complained(&server, &["gone:1", "hello"], 1);
    assert!(
        join.contains("{\"reason\":\"plugin unavailable\"}\n  = help: its plugin is not in service: `bennu plugins`"),
        "{join}"
    );
}

#[tokio::test]
async fn who_watches_sees_what_others_say() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for transport in TRANSPORTS {
        let mut command = bennu();
        call(&mut command, &server, &["echo:1", "--watch", "--json", transport]);
        let (mut watcher, log) = crate::support::server::spawned(command);
        log.line(&["\"joined\""]).await;
        let mut client = Client::joined(&server, "echo:1").await;
        client.start("echo:1", "shout", json!({ "n": 1 })).await;
        log.line(&["\"shout\"", "{\"n\":1}"]).await;
        watcher.kill().expect("it is there");
        watcher.wait().expect("it ends");
    }
}

#[tokio::test]
async fn at_a_terminal_events_are_written_and_seen_with_history() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let open = || {
        let state = bench.path("state");
        let mut terminal = at_terminal(|command| call(command, &server, &["echo:1"]).env("XDG_STATE_HOME", state));
        terminal.exp_string("echo:1> ").expect("a prompt");
        terminal
    };
    let mut terminal = open();
    terminal.send_line("echo {\"n\": 1}").expect("written");
    terminal.exp_string("{\"n\":1}").expect("the reply");
    terminal.send_line("echo one").expect("written");
    terminal.exp_string("this is no JSON").expect("a complaint");
    // What others say comes while the prompt waits.
    let mut client = Client::joined(&server, "echo:1").await;
    client.start("echo:1", "shout", json!({ "n": 2 })).await;
    terminal.exp_string("{\"n\":2}").expect("the broadcast");
    terminal.send_line("/quit").expect("written");
    assert_eq!(ended(terminal), 1, "one line was wrong");

    let mut terminal = open();
    for line in ["/quit", "echo one", "echo {\"n\": 1}"] {
        terminal.send("\x1b[A").expect("written");
        terminal.flush().expect("sent");
        terminal.exp_string(line).expect("the line before");
    }
    terminal.send_line("").expect("written");
    terminal.exp_string("{\"n\":1}").expect("the reply");
    terminal.send_control('d').expect("written");
    assert_eq!(ended(terminal), 0);
}

#[tokio::test]
async fn a_prompt_ends_when_the_server_does() {
    let server = Bench::new().serve().await;
    let mut terminal = at_terminal(|command| {
        call(command, &server, &["echo:1"])
            .env_remove("HOME")
            .env_remove("XDG_STATE_HOME")
    });
    terminal.exp_string("echo:1> ").expect("a prompt");
    server.stop().await;
    terminal
        .exp_string("the connection is closed with 1012")
        .expect("a complaint");
    assert_eq!(ended(terminal), 3);
}
