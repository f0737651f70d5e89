//! `bennu dev` at a terminal: its keys. What it builds and replaces stands in `new.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::command::{at_terminal, ended};
use crate::support::server::Bench;

const CONFIG: &str =
    "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[[mounts]]\npath = \"/socket\"\n";

#[test]
fn keys_open_the_page_list_routes_and_quit() {
    let bench = Bench::new();
    // Nothing to build.
    fs::create_dir(bench.path("src")).expect("made");
    fs::write(bench.path("src/lib.rs"), "").expect("written");
    fs::write(bench.path("Cargo.toml"), "[package]\nname = \"nothing\"\n[workspace]\n").expect("written");
    bench.write_config(CONFIG);
    // The desktop, as far as it is needed.
    let opener = bench.path("xdg-open");
    fs::write(
        &opener,
        "#!/bin/sh\necho \"$1\" > \"$0.url.new\" && mv \"$0.url.new\" \"$0.url\"\necho opened >/dev/tty\n",
    )
    .expect("written");
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).expect("made to run");
    let path = std::env::var("PATH").expect("a path");
    let mut terminal = at_terminal(|command| {
        let path = format!("{}:{path}", bench.path("").display());
        command.args(["dev", "--config"]).arg(bench.config()).env("PATH", path)
    });
    terminal.exp_string("listening on ").expect("a start");
    let (_, url) = terminal.exp_regex("http://[0-9.:]+").expect("an address");
    terminal.exp_string("o opens the page").expect("the keys");
    terminal.send("o").expect("pressed");
    terminal.flush().expect("pressed");
    terminal.exp_string("opened").expect("a browser");
    let opened = fs::read_to_string(bench.path("xdg-open.url")).expect("an address");
    assert_eq!(opened.trim_end(), url);

    bench.write_config(&format!(
        "{CONFIG}[plugins.gone]\nlibrary = \"libecho.so\"\n[[routes]]\ntopic = \"a:*\"\nplugin = \"gone\"\n"
    ));
    terminal
        .exp_string("refused")
        .expect("a refusal: the library is echo's");
    bench.write_config(&format!(
        "{CONFIG}[plugins.echo]\nlibrary = \"libecho.so\"\n[[routes]]\ntopic = \"a:*\"\nplugin = \"echo\"\n"
    ));
    terminal.exp_string("configuration replaced").expect("a reload");
    terminal.send("r").expect("pressed");
    terminal.flush().expect("pressed");
    terminal.exp_string("a:*").expect("the route");
    terminal.exp_string("generation 1").expect("its plugin");
    terminal.send("q").expect("pressed");
    terminal.flush().expect("pressed");
    assert_eq!(ended(terminal), 0);
}
