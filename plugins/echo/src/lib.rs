//! The plugin to copy. It answers `echo` with the same payload, and broadcasts a `shout` to everyone on the topic.

use bennu_plugin::prelude::*;

#[derive(Serialize, Deserialize)]
struct Echo {}

impl Channel for Echo {
    type Shared = ();

    fn handle_in(&mut self, _: &mut (), event: &str, payload: Payload<'_>, cx: &mut Context) -> Handled {
        match event {
            "echo" => return Ok(Reply::ok_with(payload)),
            "shout" => cx.broadcast("shout", payload),
            _ => return Ok(Reply::unhandled()),
        }
        Ok(Reply::ok())
    }
}

export_plugin!(Echo);

#[cfg(test)]
mod tests {
    use bennu_plugin::test::Server;

    use super::*;

    fn a_shout_reaches_everyone(server: &Server) {
        let (ann, bob) = (server.join("echo:1", json!({})), server.join("echo:1", json!({})));
        let hello = json!({ "say": "hello" });
        ann.push("echo", &hello).assert_reply("ok", &hello);
        ann.push("shout", &hello).assert_reply("ok", json!({}));
        ann.assert_push("shout", &hello);
        bob.assert_push("shout", &hello);
        bob.refute_push("echo", &hello);
    }

    #[test]
    fn a_shout_reaches_everyone_of_this_code_and_of_the_library_built() {
        a_shout_reaches_everyone(&Server::start::<Echo>());
        a_shout_reaches_everyone(&Server::built("echo"));
    }
}
